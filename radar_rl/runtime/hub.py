"""Policies on the Hugging Face Hub: the artifact's folder as a repository, by huggingface_hub's own mixin."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download

from radar_rl.errors import ArtifactError, in_words
from radar_rl.runtime.artifact import CONFIG_FILE, ONNX_FILE, WEIGHTS_FILE, Artifact, load_artifact

WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|ckpt|pkl|pickle|npz|h5|msgpack|gguf|onnx)(\.index\.json)?$")
KNOWN = {WEIGHTS_FILE, ONNX_FILE}

CARD = """---
{data}
---
# {name}

A stop policy for speculative decoding, by radar-rl: after each draft call it says whether to draft on. The text does
not depend on it, the speed does.

{facts}

```python
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.hub import HubPolicy

decoder = SpeculativeDecoder.from_artifact(pair, HubPolicy.from_pretrained("…").artifact)
```
"""


class HubPolicy(ModelHubMixin):
    """An artifact that goes to the Hub and comes from it: ``save_pretrained``, ``push_to_hub``, ``from_pretrained``.

    ``HubPolicy(load_artifact("runs/policy")).push_to_hub("me/my-policy")`` puts a policy there,
    ``HubPolicy.from_pretrained("me/my-policy").artifact`` is what ``SpeculativeDecoder.from_artifact`` decodes with.

    Args:
        artifact: an exported policy.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The policy of a repository or of a folder, strictly.

        Args:
            pretrained_model_name_or_path: a repository's id, or a folder.
            options: ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only`` of
                ``huggingface_hub``.

        Raises:
            ArtifactError: a file is missing, damaged or changed, or there are weights beside the policy's.
            huggingface_hub.errors.HfHubHTTPError: the Hub does not answer, or knows no such repository.
        """
        try:
            policy: Self = super().from_pretrained(pretrained_model_name_or_path, **options)
        except ArtifactError:
            raise
        # The mixin reads config.json before we do.
        except (ValueError, AttributeError, RecursionError) as error:
            where = f"{pretrained_model_name_or_path}: {CONFIG_FILE}"
            raise ArtifactError(f"{where}: not an exported policy's ({error})") from error
        return policy

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> Self:
        if options:
            raise ArtifactError(f"{model_id}: unknown options {sorted(options)}; an artifact says all by itself")
        if Path(model_id).is_dir():
            folder = Path(model_id)
            _check_files(model_id, (path.name for path in folder.iterdir()))
            return cls(load_artifact(folder))
        if not local_files_only:
            listed = HfApi(token=token).model_info(model_id, revision=revision)
            _check_files(model_id, (file.rfilename for file in listed.siblings or ()))
            revision = listed.sha or revision  # all files of one commit
        places = [
            hf_hub_download(
                model_id,
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        ]
        return cls(load_artifact(Path(places[0]).parent))

    def _save_pretrained(self, save_directory: Path) -> None:
        self.artifact.save(save_directory)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """What the policy is, what it was made for and how it did."""
        about = self.artifact.about
        data = ModelCardData(library_name="radar-rl", tags=["speculative-decoding", "stop-policy"])
        facts = {
            "made for": " + ".join(str(about[key]) for key in ("target", "draft") if about.get(key)),
            "drafts": ", ".join(f"{key} {about[key]}" for key in ("max_depth", "top_k", "tree_size") if about.get(key)),
            "best static depth": about.get("best_static_depth"),
            "hardware profile": (about.get("hardware") or {}).get("name"),
            "radar-rl": about.get("radar_rl_version"),
        }
        lines = [f"- {key}: {value}" for key, value in facts.items() if value]
        return ModelCard(CARD.format(data=data.to_yaml(), name=self.artifact.policy.name, facts="\n".join(lines)))


def _check_files(where: str, names: Iterable[str]) -> None:
    """Refuse a repository that lacks the artifact's files, or has weights that nobody would read.

    Raises:
        ArtifactError: naming them.
    """
    there = set(names)
    missing = sorted({CONFIG_FILE, WEIGHTS_FILE} - there)
    unexpected = sorted(name for name in there - KNOWN if WEIGHTS.search(name))
    if missing or unexpected:
        wrong = in_words(missing=missing, unexpected_weights=unexpected)
        raise ArtifactError(f"{where}: not an artifact's repository: {wrong}")
