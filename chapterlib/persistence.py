"""The methods that a finetuned classifier has for folders and the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sklearn.utils.validation import check_is_fitted

from chapterlib import finetuned

if TYPE_CHECKING:
    from typing_extensions import Self

    from chapterlib.records import RunRecord


class PersistenceMixin:
    """Save, load, merge and publish; `training.FinetunedClassifier` has it."""

    def save(self, folder: str | Path, record: RunRecord | None = None) -> Path:
        """Write adapters or weights, head, tokenizer, labels, template, model card.

        Parameters
        ----------
        folder : path
            Made where it is missing.
        record : RunRecord, optional
            A measured run, for the model card.

        Returns
        -------
        Path
            The folder. ``peft`` and ``transformers`` read it as well.
        """
        check_is_fitted(self)
        return finetuned.save(self, Path(folder).expanduser(), record)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Read a folder that `save` wrote, ready to predict.

        Parameters
        ----------
        folder : path
        model : str or path, optional
            The base of the adapters, where it was a local folder.
        device, dtype : optional
            As for `models.load`. Weights that were trained whole stay in float32;
            `dtype` is then what they compute in.

        Raises
        ------
        SavedModelError
            If the folder holds no whole classifier, or the base is another model.
        """
        path = Path(folder).expanduser()
        return finetuned.load(cls, path, model=model, device=device, dtype=dtype)

    def merge(
        self,
        folder: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Fold the adapters into the weights: a plain model, as fast as the base.

        Parameters
        ----------
        folder : path, optional
            Save the merged model there.
        dtype : optional
            Of the merged weights. In float32 the logits agree to 1e-4; bf16 and fp16
            round the sum of base and adapter. From 4 bit, the weights are merged as
            they were rounded, so float32 agrees as well as before, at four times the
            memory; quantizing the result again would round it once more.

        Returns
        -------
        FinetunedClassifier
            Another one; this one stays as it is.
        """
        check_is_fitted(self)
        merged = finetuned.merge(self, dtype=dtype)
        if folder is not None:
            merged.save(folder)
        return merged

    def push(
        self, repo_id: str, *, private: bool = True, record: RunRecord | None = None
    ) -> str:
        """Publish on the Hugging Face Hub what `save` writes; needs HF_TOKEN.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        SavedModelError
            If the Hub refuses it or can't be reached.
        """
        check_is_fitted(self)
        return finetuned.push(self, repo_id, private=private, record=record)
