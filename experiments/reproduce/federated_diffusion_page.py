"""Page and figures of what federated diffusion models draw."""

MAIN = "main"
PARTITIONS = ("IID", "Dirichlet(1)", "Dirichlet(0.1)", "one class a client")
TOLD = ("IID, told classes", "one class a client, told classes")


def write_page(*args): ...
