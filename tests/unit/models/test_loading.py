"""models.load: heads, sources, pad tokens and errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tiny_llama import save_tiny_llama
from transformers import AutoConfig, AutoTokenizer

from chapterlib.models import embedded, loading


def test_generate_has_a_language_modeling_head(tiny_llama: Path) -> None:
    tokenizer, model = loading.load("generate", tiny_llama)
    batch = tokenizer(["the team wins"], return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch).logits
    assert logits.shape[-1] == len(tokenizer)
    assert not model.training


def test_features_give_hidden_states(tiny_llama: Path) -> None:
    tokenizer, model = loading.load("features", tiny_llama)
    batch = tokenizer(["the team wins"], return_tensors="pt")
    with torch.inference_mode():
        state = model(**batch).last_hidden_state
    assert state.shape[-1] == model.config.hidden_size


def test_classify_names_the_labels_and_seeds_the_head(tiny_llama: Path) -> None:
    heads = [
        loading.load("classify", tiny_llama, labels=("a", "b", "c"), seed=seed).model
        for seed in (1, 1, 2)
    ]
    assert heads[0].config.id2label == {0: "a", 1: "b", 2: "c"}
    assert heads[0].config.label2id == {"a": 0, "b": 1, "c": 2}
    weights = [head.score.weight for head in heads]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_loading_leaves_the_global_random_state_alone(tiny_llama: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    loading.load("classify", tiny_llama, labels=("a", "b"))
    assert torch.equal(torch.rand(1), expected)


def test_settings_name_the_model(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(tiny_llama))
    assert loading.resolve().name == "tiny-llama"
    assert loading.load("features").model.config.num_hidden_layers == 2


def test_a_missing_pad_token_becomes_the_reserved_one(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "padless", pad=False)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    tokenizer, model = loading.load("generate", folder)
    assert tokenizer.pad_token == "<|reserved_special_token_0|>"
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_classification_ignores_padding(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "padless", pad=False)
    tokenizer, model = loading.load(
        "classify", folder, labels=("a", "b"), dtype="float32"
    )
    short = "shares fall"
    texts = [short, "the minister talks of a border storm and a court"]
    alone = tokenizer([short], return_tensors="pt")
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        a, b = model(**alone).logits[0], model(**padded).logits[0]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_no_pad_and_no_end_token_is_an_error(tiny_llama: Path) -> None:
    tokenizer, model = loading.load("generate", tiny_llama)
    tokenizer.pad_token = None
    tokenizer.eos_token = None
    vocabulary = {"the": 0}
    tokenizer.get_vocab = lambda: vocabulary
    with pytest.raises(loading.ModelError, match=r"tokenizer\.pad_token"):
        loading.set_pad_token(tokenizer, model)


def test_loading_prints_nothing(
    tiny_llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loading.load("classify", tiny_llama, labels=("a", "b"))
    loading.load("features", tiny_llama)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_identity_follows_the_files(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "one")
    first = loading.resolve(folder)
    assert loading.resolve(str(folder)) == first
    # What lies beside the model does not belong to it.
    for name in ("README.md", ".DS_Store", "optimizer.pt", "training_args.bin", "x.py"):
        (folder / name).write_bytes(b"x")
    (folder / "notes").mkdir()
    assert loading.resolve(folder) == first
    seen = {first.sha256}
    for name in ("config.json", "tokenizer.json", "model.safetensors", "vocab.txt"):
        with (folder / name).open("ab") as stream:
            stream.write(b" ")
        seen.add(loading.resolve(folder).sha256)
    assert len(seen) == 5


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(loading.ModelError, match=r"holds no config\.json"):
        loading.resolve(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here"])
def test_a_missing_folder_is_not_sought_on_the_hub(name: str) -> None:
    with pytest.raises(loading.ModelError, match="there is no folder"):
        loading.resolve(name)


def test_an_unreachable_hub_id_lists_the_remedies() -> None:
    with pytest.raises(loading.ModelError) as caught:
        loading.load("generate", "nobody/no-such-model")
    for remedy in ("CHAPTERLIB_MODEL", "HF_TOKEN", "embedded"):
        assert remedy in str(caught.value)


def test_broken_weights_are_reported_with_their_folder(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "broken")
    (folder / "model.safetensors").unlink()
    with pytest.raises(loading.ModelError, match="can't be loaded"):
        loading.load("generate", folder)


def test_an_unknown_head_and_missing_labels_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(ValueError, match="choose one of generate"):
        loading.load("translate", tiny_llama)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs labels"):
        loading.load("classify", tiny_llama)


@pytest.mark.slow
def test_the_embedded_model_speaks(user_cache: Path) -> None:
    source = loading.resolve("embedded")
    assert source.sha256 == embedded.GGUF_SHA256
    tokenizer, model = loading.load("generate", "embedded")
    assert model.num_parameters() == 134_515_008
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False
    )
    assert chat.endswith("<|im_start|>user\nHello<|im_end|>\n")


def test_a_hub_model_is_known_by_its_commit(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoConfig.from_pretrained(tiny_llama)

    asked = []

    def from_hub(name: str, revision: str) -> object:
        assert name == "someone/model"
        asked.append(revision)
        return config

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", from_hub)
    assert re.fullmatch("[0-9a-f]{64}", loading.resolve("someone/model").sha256)
    config._commit_hash = "a" * 40
    assert loading.resolve("someone/model") == loading.ModelSource(
        "someone/model", "someone/model", "a" * 40, "a" * 40
    )
    assert loading.resolve("someone/model@v1").location == "someone/model"
    assert asked == ["main", "main", "v1"]
