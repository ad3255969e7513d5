"""What has changed in a cell since the last decision: everything, or some replicas and models."""

from collections.abc import Iterable
from dataclasses import dataclass, field

# With more changed models than this, looking at all of them is no more work.
MOST_MODELS = 50


@dataclass(slots=True)
class Changes:
    """Collected between two decisions; a decision takes them away."""

    everything: bool = True
    # Servers by address, models by full name.
    servers: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)

    @property
    def are_few(self) -> bool:
        """Whether it pays to look at what has changed alone."""
        return not self.everything and len(self.models) <= MOST_MODELS

    def note(self, server: str, model: str) -> None:
        """Something about a replica has changed, or is about to."""
        self.servers.add(server)
        self.models.add(model)

    def note_models(self, models: Iterable[str]) -> None:
        """Models were published, changed or unpublished."""
        self.models.update(models)

    def note_everything(self) -> None:
        """Something has changed that may concern every model."""
        self.everything = True

    def take(self) -> "Changes":
        """What was collected; from now on it is collected anew."""
        taken = Changes(self.everything, self.servers, self.models)
        self.everything, self.servers, self.models = False, set(), set()
        return taken
