"""What is saved comes back: the same logits, reloaded, merged, or read by peft."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from datasets import DatasetDict
from peft import AutoPeftModelForSequenceClassification
from tiny_llama import save_tiny_llama
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.reporting import records
from chapterlib.tasks import sampling
from chapterlib.training.saving import SavedModelError

TEXTS = ["the team wins", "shares fall", "a probe on the moon and a rover " * 5]
METHODS = ["lora", "qlora", "full", "head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(
        tmp_path_factory.mktemp("four") / "four", layers=3, pad=False
    )


@pytest.fixture
def fitted(
    request: pytest.FixtureRequest, folder: Path, tiny_news: DatasetDict
) -> FinetunedClassifier:
    method = getattr(request, "param", "lora")
    train = tiny_news["train"]
    return FinetunedClassifier(
        method,
        model=folder,
        dtype="float32",
        device="cpu",
        learning_rate=1e-2,
        batch_size=8,
        epochs=2,
        progress=False,
    ).fit(list(train["text"]), list(train["label"]))


every_method = pytest.mark.parametrize("fitted", METHODS, indirect=True)


def test_whole_weights_come_back_as_they_were_trained(
    folder: Path, tiny_news: DatasetDict, tmp_path: Path
) -> None:
    train = tiny_news["train"]
    fitted = FinetunedClassifier(
        "full", model=folder, dtype="bfloat16", device="cpu", epochs=1, progress=False
    ).fit(list(train["text"]), list(train["label"]))
    place = fitted.save(tmp_path / "saved")
    narrow = FinetunedClassifier.load(place, device="cpu", dtype="bfloat16")
    wide = FinetunedClassifier.load(place, device="cpu", dtype="float32")
    for loaded in (narrow, wide):
        for name, value in fitted.network_.named_parameters():
            assert value.dtype == torch.float32
            assert torch.equal(loaded.network_.get_parameter(name), value), name
    logits = fitted.decision_function(TEXTS)
    np.testing.assert_array_equal(narrow.decision_function(TEXTS), logits)
    gap = np.abs(wide.decision_function(TEXTS) - logits).max()
    assert 0 < gap < 0.05  # the layers compute in bfloat16
    rounded = torch.tensor(logits).bfloat16().float().numpy()
    assert (rounded != logits).any()  # but the head does not


@every_method
def test_reloaded_logits_are_the_same(
    fitted: FinetunedClassifier, folder: Path, tmp_path: Path
) -> None:
    place = fitted.save(tmp_path / "new" / "saved")
    loaded = FinetunedClassifier.load(
        place, model=folder, dtype="float32", device="cpu"
    )
    expected = fitted.decision_function(TEXTS)
    np.testing.assert_allclose(loaded.decision_function(TEXTS), expected, atol=1e-4)
    np.testing.assert_array_equal(loaded.classes_, fitted.classes_)
    for name in ("method", "r", "alpha", "template", "epochs", "target_modules"):
        before, after = getattr(fitted, name), getattr(loaded, name)
        assert after == (list(before) if isinstance(before, tuple) else before)
    assert loaded.history_ == fitted.history_
    assert loaded.trainable_parameters_ == fitted.trainable_parameters_
    assert loaded.tokenizer_.pad_token == "<|reserved_special_token_0|>"
    # Saved once more, it is still the same.
    loaded.save(tmp_path / "again")
    again = FinetunedClassifier.load(
        tmp_path / "again", model=folder, dtype="float32", device="cpu"
    )
    np.testing.assert_allclose(again.decision_function(TEXTS), expected, atol=1e-4)


def by_hand(network: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Logits without this package: a template, a tokenizer, a model."""
    read = [f"{text}\nThis news article is about" for text in texts]
    batch = tokenizer(read, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        found: np.ndarray = network.eval()(**batch).logits.numpy()
    return found


def test_peft_reads_the_adapter(
    fitted: FinetunedClassifier, folder: Path, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "four"  # no path of this machine
    config["base_model_name_or_path"] = str(folder)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    network = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=4, pad_token_id=fitted.tokenizer_.pad_token_id
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    short = TEXTS[:2]
    np.testing.assert_allclose(
        by_hand(network, tokenizer, short), fitted.decision_function(short), atol=1e-4
    )


@pytest.mark.parametrize("fitted", ["lora", "qlora"], indirect=True)
def test_a_merged_model_is_a_plain_one(
    fitted: FinetunedClassifier, tmp_path: Path
) -> None:
    expected = fitted.decision_function(TEXTS)
    merged = fitted.merge(tmp_path / "merged", dtype="float32")
    np.testing.assert_allclose(merged.decision_function(TEXTS), expected, atol=1e-4)
    np.testing.assert_array_equal(fitted.decision_function(TEXTS), expected)
    loaded = FinetunedClassifier.load(tmp_path / "merged", dtype="float32")
    np.testing.assert_allclose(loaded.decision_function(TEXTS), expected, atol=1e-4)
    with pytest.raises(ValueError, match="nothing to merge"):
        loaded.merge()
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert network.config.id2label[3] == "Sci/Tech"
    assert getattr(network.config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    short = TEXTS[:2]
    np.testing.assert_allclose(
        by_hand(network, tokenizer, short), fitted.decision_function(short), atol=1e-4
    )


def test_merged_weights_in_bf16_are_rounded(fitted: FinetunedClassifier) -> None:
    merged = fitted.merge(dtype="bfloat16")
    np.testing.assert_allclose(
        merged.decision_function(TEXTS), fitted.decision_function(TEXTS), atol=0.1
    )


def test_a_reload_knows_its_base(
    fitted: FinetunedClassifier,
    folder: Path,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted.save(tmp_path)
    with pytest.raises(SavedModelError, match=r"belongs to four .* as model="):
        FinetunedClassifier.load(tmp_path, model=tiny_llama)
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(tiny_llama))
    with pytest.raises(SavedModelError, match="but tiny-llama is"):
        FinetunedClassifier.load(tmp_path)
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(folder))
    assert FinetunedClassifier.load(tmp_path, dtype="float32").predict(TEXTS).shape


def test_the_pad_token_of_the_training_is_kept(
    fitted: FinetunedClassifier, folder: Path, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    file = tmp_path / "chapterlib.json"
    known = json.loads(file.read_text())
    assert known["pad_token"] == "<|reserved_special_token_0|>"
    file.write_text(json.dumps({**known, "pad_token": "<|end|>"}))
    loaded = FinetunedClassifier.load(tmp_path, model=folder, dtype="float32")
    end = loaded.tokenizer_.convert_tokens_to_ids("<|end|>")
    assert loaded.tokenizer_.pad_token_id == loaded.network_.config.pad_token_id == end


def test_a_folder_that_is_not_whole_is_an_error(
    fitted: FinetunedClassifier, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SavedModelError, match=r"holds no chapterlib\.json"):
        FinetunedClassifier.load(tmp_path / "none")
    fitted.save(tmp_path)
    file = tmp_path / "chapterlib.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "format": 99}))
    with pytest.raises(SavedModelError, match="has format 99"):
        FinetunedClassifier.load(tmp_path, model=folder)
    file.write_text(file.read_text()[:100])
    with pytest.raises(SavedModelError, match="is damaged"):
        FinetunedClassifier.load(tmp_path, model=folder)


def test_the_card_tells_how_it_was_made(
    fitted: FinetunedClassifier, tiny_news: DatasetDict, tmp_path: Path
) -> None:
    test = tiny_news["test"]
    record = records.RunRecord.from_predictions(
        test["label"],
        fitted.predict(list(test["text"])),
        method="lora",
        title="LoRA",
        model="four",
        model_sha256=fitted.source_.sha256,
        data=records.DataUsed.of(
            sampling.describe(tiny_news), train=tiny_news["train"], test=test
        ),
        seed=0,
        params={},
        fit_seconds=12.0,
        predict_seconds=1.0,
        peak_memory_bytes=1,
    )
    fitted.save(tmp_path, record)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert "base_model" not in head  # a local folder is no id of the Hub
    assert f"Accuracy {record.metrics.accuracy:.4f}" in card
    assert f"{fitted.trainable_parameters_:,} numbers were trained" in card
    assert "| 3 | `'Sci/Tech'` |" in card
    assert "| learning_rate | `0.01` |" in card
    assert str(tmp_path.parent) not in card
    plain = fitted.merge(dtype="float32").save(tmp_path / "plain")
    card = (plain / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert "No measured run" in card


class Hub:
    """The Hub's client, which remembers what it was asked and sends nothing."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        Hub.last = self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if repo_id.startswith("nobody"):
            raise OSError("no connection")
        self.repo, self.private = repo_id, private

    def upload_folder(self, repo_id: str, folder_path: str) -> Any:
        self.files = {path.name for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://hub.invalid/{repo_id}/commit/1")


def test_it_is_published_whole(
    fitted: FinetunedClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert fitted.push("me/news").endswith("me/news/commit/1")
    assert (Hub.last.repo, Hub.last.private) == ("me/news", True)
    assert Hub.last.token == "secret"
    assert Hub.last.files >= {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chapterlib.json",
        "tokenizer.json",
    }
    with pytest.raises(SavedModelError, match="Set HF_TOKEN"):
        fitted.push("nobody/news")
