"""The common ground of the simulator: data, models, engines, vocabulary, transcripts, seeding."""

__version__ = "0.1.0"
