"""What is saved comes back: the same logits, reloaded, merged, or read by peft."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import AutoPeftModelForSequenceClassification
from tiny_llama import save_tiny_llama
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.models import embedded, loading
from chapterlib.tasks.task import AG_NEWS, Task
from chapterlib.training import saving
from chapterlib.training.saving import SavedModelError, model_card

TEXTS = ["the team wins", "shares fall", "a probe on the moon and a rover " * 5]
METHODS = ["lora", "qlora", "full", "head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(
        tmp_path_factory.mktemp("four") / "four", layers=3, pad=False
    )


LABELS = ("Ämter & Bürger", "Sport", "Wirtschaft", "a|b")
TASK = Task("Nachrichten", LABELS, item="Artikel")
ROWS = (
    [
        f"{words} in {place}"
        for place in "abcd"
        for words in ("vote", *TEXTS[:2], "chip")
    ],
    [0, 1, 2, 3] * 4,
)


def fit(method: Any, folder: Path, **options: Any) -> FinetunedClassifier:
    few: dict[str, Any] = {"dtype": "float32", "learning_rate": 1e-2, "batch_size": 8}
    return FinetunedClassifier(
        method,
        model=folder,
        device="cpu",
        epochs=1,
        progress=False,
        task=TASK,
        **{**few, **options},
    ).fit(*ROWS)


@pytest.fixture(scope="module")
def fitted(request: pytest.FixtureRequest, folder: Path) -> FinetunedClassifier:
    """Return a fitted classifier, to read only."""
    return fit(getattr(request, "param", "lora"), folder)


FORMAT_1 = Path(__file__).with_name("format_1")  # written by version 0.1.0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_folder_of_version_0_1_0_gives_the_same_logits(
    method: str, tmp_path: Path
) -> None:
    expected = json.loads((FORMAT_1 / "logits.json").read_text(encoding="utf-8"))
    loaded = FinetunedClassifier.load(
        FORMAT_1 / method, model=FORMAT_1 / "base", dtype="float32", device="cpu"
    )
    logits = loaded.decision_function(expected["texts"])
    np.testing.assert_allclose(logits, expected[method], atol=1e-5)
    if method == "lora":
        assert loaded.task is AG_NEWS
        assert loaded.template == AG_NEWS.template
    else:
        assert loaded.task.label_names == ("schlecht", "schön")
        assert loaded.template == "{text}"
    # Saved anew, it is still the same.
    loaded.save(tmp_path)
    again = FinetunedClassifier.load(
        tmp_path, model=FORMAT_1 / "base", dtype="float32", device="cpu"
    )
    np.testing.assert_allclose(
        again.decision_function(expected["texts"]), logits, atol=1e-6
    )
    assert again.task == loaded.task


def test_labels_of_version_0_1_0_that_were_not_all_seen(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1 / "full", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "chapterlib.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    known["params"]["label_names"] = None
    file.write_text(json.dumps({**known, "classes": [5, 9], "labels": ["5", "9"]}))
    loaded = FinetunedClassifier.load(tmp_path, dtype="float32", device="cpu")
    assert set(loaded.predict(TEXTS)) <= {5, 9}
    assert loaded.task.label_names[5:] == ("5", "class 6", "class 7", "class 8", "9")


def test_whole_weights_come_back_as_they_were_trained(
    folder: Path, tmp_path: Path
) -> None:
    fitted = fit("full", folder, dtype="bfloat16")
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


@pytest.mark.parametrize("fitted", METHODS, indirect=True, scope="module")
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
    assert loaded.template == TASK.template
    assert loaded.task == TASK
    for name in ("method", "r", "alpha", "epochs", "target_modules"):
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
    read = [f"{text}\nThis Artikel is about" for text in texts]
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


@pytest.mark.parametrize("fitted", ["lora", "qlora"], indirect=True, scope="module")
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
    assert network.config.id2label[0] == "Ämter & Bürger"
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
    monkeypatch.setenv("CHAPTERLIB_MODEL", "embedded")
    monkeypatch.setattr(embedded, "model_folder", None)  # it is not even fetched
    with pytest.raises(SavedModelError, match="but SmolLM2-135M-Instruct is"):
        FinetunedClassifier.load(tmp_path)
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(folder))
    (folder / "notes.txt").write_text("of no matter")
    assert FinetunedClassifier.load(tmp_path, dtype="float32").predict(TEXTS).shape


def test_a_base_of_the_hub_is_taken_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str) -> loading.ModelSource:
        hub_id, commit = name.split("@")
        return loading.ModelSource(hub_id, hub_id, commit, commit)

    monkeypatch.setattr(loading, "resolve", resolve)
    base = {"name": "a/b", "hub_id": "a/b", "sha256": "c" * 40, "revision": "c" * 40}
    assert saving._base_of({"base": base}, None) == f"a/b@{'c' * 40}"


def test_what_a_killed_save_left_goes_at_the_next(
    fitted: FinetunedClassifier, tmp_path: Path
) -> None:
    (tmp_path / ".draft-0123").mkdir()
    (tmp_path / ".draft-0123" / "half.safetensors").write_bytes(b"half")
    fitted.save(tmp_path)
    assert list(tmp_path.glob(".draft-*"))  # another process may be at it
    os.utime(tmp_path / ".draft-0123", (0, 0))
    fitted.save(tmp_path)
    assert not list(tmp_path.glob(".draft-*"))


def test_a_description_names_no_file_outside_its_folder(
    fitted: FinetunedClassifier, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    file = fitted.save(tmp_path / "saved") / "chapterlib.json"
    known = json.loads(file.read_text())
    known["files"] |= {"../mine.txt": "0", str(tmp_path / "mine.txt"): "0"}
    file.write_text(json.dumps(known))
    FinetunedClassifier.load(tmp_path / "saved", model=folder)
    fitted.save(tmp_path / "saved")
    assert (tmp_path / "mine.txt").read_text() == "keep"


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
    with pytest.raises(SavedModelError, match="is not of format 1"):
        FinetunedClassifier.load(tmp_path, model=folder)
    file.write_text('{"format": 1}')
    with pytest.raises(SavedModelError, match=r"chapterlib\.json lacks adapter, base"):
        FinetunedClassifier.load(tmp_path, model=folder)
    for text in (file.read_text()[:8], "", "[]"):
        file.write_text(text)
        with pytest.raises(SavedModelError, match=r"chapterlib\.json is"):
            FinetunedClassifier.load(tmp_path, model=folder)


@pytest.mark.parametrize("spoil", ["cut", "empty", "absent", "foreign"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_what_was_saved_is_named(
    name: str, spoil: str, fitted: FinetunedClassifier, folder: Path, tmp_path: Path
) -> None:
    file = fitted.save(tmp_path) / name
    whole = file.read_bytes()
    spoiled = {"cut": whole[: len(whole) // 2], "empty": b"", "foreign": whole[::-1]}
    file.unlink()
    if spoil in spoiled:
        file.write_bytes(spoiled[spoil])
    with pytest.raises(SavedModelError, match=f"{name} is missing or not what"):
        FinetunedClassifier.load(tmp_path, model=folder)


def test_two_savers_into_one_folder_leave_the_one_or_the_other(
    fitted: FinetunedClassifier,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged, card = fitted.merge(dtype="float32"), saving.model_card

    def in_between(*args: Any) -> str:
        monkeypatch.setattr(saving, "model_card", card)
        merged.save(tmp_path)
        return card(*args)

    monkeypatch.setattr(saving, "model_card", in_between)
    fitted.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = FinetunedClassifier.load(tmp_path, model=folder)
    gap = loaded.decision_function(TEXTS) - fitted.decision_function(TEXTS)
    assert abs(gap).max() < 1e-4


def test_the_card_tells_how_it_was_made(
    fitted: FinetunedClassifier, tmp_path: Path
) -> None:
    fitted.save(tmp_path, {"accuracy": 0.915, "test rows": "16 of Nachrichten"})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert "base_model" not in head  # a local folder is no id of the Hub
    assert "| accuracy | `0.915` |" in card
    assert "| test rows | `16 of Nachrichten` |" in card
    assert f"{fitted.trainable_parameters_:,} numbers were trained" in card
    assert "| 0 | `'Ämter & Bürger'` |" in card
    assert "| 3 | `'a\\|b'` |" in card  # a bar of its own would end the cell
    assert "| learning_rate | `0.01` |" in card
    assert str(tmp_path.parent) not in card
    plain = fitted.merge(dtype="float32").save(tmp_path / "plain")
    card = (plain / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert "No measured run" in card


def test_the_hub_finds_base_and_kind() -> None:
    known = {
        "adapter": True,
        "params": {"method": "qlora", "template": "{text}", "max_length": 64},
        "classes": [0, 1],
        "labels": ["no", "yes"],
        "pad_token": "<pad>",
        "base": {"name": "me/base", "sha256": "a" * 40, "hub_id": "me/base"},
        "trainable_parameters": 1234,
        "versions": {"peft": "1.0"},
    }
    card = model_card(known)
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "me/base"
    assert head["tags"] == ["chapterlib", "qlora"]
    assert head["pipeline_tag"] == "text-classification"
    assert "| 1 | `'yes'` |" in card
    assert "1,234 numbers" in card
    assert "Versions: peft 1.0" in card
