"""What the Python API answers."""

from dataclasses import dataclass

from saxml.common.names import CellId, parse_cell, parse_model
from saxml.proto import admin_pb2

# One chunk of a stream: text, prefix_len and scores of each sample.
Chunk = list[tuple[str, int, list[float]]]


@dataclass(frozen=True, slots=True)
class ModelDetail:
    """A published model: configuration, checkpoint, replicas asked for and assigned."""

    model: str
    ckpt: str
    max_replicas: int
    active_replicas: int
    overrides: dict[str, str]


@dataclass(frozen=True, slots=True)
class ModelServerTypeStat:
    """How many model servers of a kind serve: chip and topology by their proto names."""

    chip_type: str
    chip_topology: str
    num_replicas: int


def detail_of(published: admin_pb2.PublishedModel) -> ModelDetail:
    """ModelDetail of what the admin server answers."""
    model = published.model
    return ModelDetail(
        model.model_path,
        model.checkpoint_path,
        model.requested_num_replicas,
        len(published.modelet_addresses),
        dict(model.overrides),
    )


def type_stats(stats: admin_pb2.StatsResponse) -> list[ModelServerTypeStat]:
    """ModelServerTypeStats of what the admin server answers."""
    return [
        ModelServerTypeStat(
            admin_pb2.ModelServer.ChipType.Name(stat.chip_type),
            admin_pb2.ModelServer.ChipTopology.Name(stat.chip_topology),
            stat.num_replicas,
        )
        for stat in stats.model_server_type_stats
    ]


def cell_of(id: str) -> CellId:
    """The cell called so, or that of a model called so."""
    return parse_cell(id) if id.count("/") == 2 else parse_model(id).cell_id
