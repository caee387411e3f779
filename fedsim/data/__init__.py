"""Data sets, the store they are kept in, and their partition among clients."""

from fedsim.data.downloads import fetch
from fedsim.data.folder import import_folder
from fedsim.data.images import DataSet, Images, normalised
from fedsim.data.npz import import_npz
from fedsim.data.partition import PARTITIONS, describe, partition
from fedsim.data.shards import Shards
from fedsim.data.sources import DATA, load
from fedsim.data.summary import overview, show

__all__ = [
    "DATA",
    "PARTITIONS",
    "DataSet",
    "Images",
    "Shards",
    "describe",
    "fetch",
    "import_folder",
    "import_npz",
    "load",
    "normalised",
    "overview",
    "partition",
    "show",
]
