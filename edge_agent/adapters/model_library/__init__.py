"""Model files on this device: where they are, where they came from, and how they get here."""

from edge_agent.adapters.model_library.library import ModelLibrary, StoredFile
from edge_agent.adapters.model_library.problem import LibraryError
from edge_agent.adapters.model_library.pull import Progress, Pulled, Wanted, pull

__all__ = ["LibraryError", "ModelLibrary", "Progress", "Pulled", "StoredFile", "Wanted", "pull"]
