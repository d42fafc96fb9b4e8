"""Every object of the source chapter stands in a cell, by its own name.

The cells are read, not run: a call counts where the name that it uses was imported from
the library, or is a method that only that library's objects have.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

# Of functions and classes where they come from, of methods the name with a dot before.
CALLS = {
    "01_text_classification": [
        "datasets.load_dataset",
        "evaluate.load",
        "evaluate.combine",
        ".compute(predictions, references)",
    ],
    "02_zero_shot": [
        "dotenv.load_dotenv",
        "langchain_together.ChatTogether(max_tokens, model, temperature)",
        "langchain_openai.ChatOpenAI(max_tokens, model, temperature)",
        "pydantic.Field",
        "langchain_core.output_parsers.PydanticOutputParser(pydantic_object)",
        "langchain_core.prompts.ChatPromptTemplate.from_template(template_format)",
        ".get_format_instructions",
        "chapterlib.parsers.EnumOutputParser(enum)",
        ".invoke",
        ".map(batch_size, batched)",
        ".save_to_disk",
        "chapterlib.PromptClassifier",
        "chapterlib.prompts.carp",
        ".compute(predictions, references)",
    ],
    "03_few_shot": [
        ".groupby",
        ".sample(n, random_state)",
        "datasets.Dataset.from_pandas",
        ".map",
        "chapterlib.prompts.few_shot",
        "chapterlib.prompts.Negative",
        ".compute(predictions, references)",
    ],
    "06_quantization": [
        "transformers.BitsAndBytesConfig(bnb_4bit_compute_dtype, bnb_4bit_quant_type, "
        "bnb_4bit_use_double_quant, load_in_4bit)",
        "transformers.AutoModelForSequenceClassification.from_pretrained(device_map, "
        "num_labels, quantization_config)",
    ],
    "07_lora": [
        "peft.LoraConfig(bias, lora_alpha, lora_dropout, r, target_modules, task_type)",
        "peft.prepare_model_for_kbit_training",
        "peft.get_peft_model",
    ],
    "08_training": [
        ".map(batched)",
        "transformers.BitsAndBytesConfig(load_in_4bit)",
        "transformers.AutoModelForSequenceClassification.from_pretrained(device_map, "
        "num_labels, quantization_config)",
        "peft.LoraConfig(bias, lora_alpha, lora_dropout, r, target_modules, task_type)",
        "peft.prepare_model_for_kbit_training",
        "peft.get_peft_model",
        "transformers.TrainingArguments(eval_strategy, load_best_model_at_end, "
        "save_strategy, weight_decay)",
        "transformers.DataCollatorWithPadding",
        "transformers.Trainer(compute_metrics, data_collator, eval_dataset, "
        "processing_class, train_dataset)",
        ".train",
        ".evaluate",
        "chapterlib.FinetunedClassifier",
    ],
}
# What is no call: classes that derive from a base, names of columns and attributes.
ALSO = {
    "01_text_classification": ["features['label'].names"],
    "02_zero_shot": [
        "(BaseModel)",
        "Literal['World'",
        "id_to_label = {",
        "jinja | together | parser",
        "len(found.results)",
        "'empty'",
    ],
    "03_few_shot": ["'str_label'"],
}


def code_of(name: str) -> list[ast.Module]:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = (c.source for c in notebook.cells if c.cell_type == "code")
    plain = (
        "\n".join(line for line in source.splitlines() if line.lstrip()[:1] != "%")
        for source in cells
    )
    # A magic alone in a block leaves the block empty.
    return [ast.parse(source) for source in plain if "find_spec" not in source]


def full_name(node: ast.expr, imported: dict[str, str]) -> str:
    """Spell a call's function by its import; a method of a value begins with a dot."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = full_name(node.value, imported)
        known = before.split(".")[0] in {n.split(".")[0] for n in imported.values()}
        return f"{before}.{node.attr}" if known else f".{node.attr}"
    return ""


def calls(cells: list[ast.Module]) -> Iterator[tuple[str, set[str]]]:
    """Give each call's function and its keywords."""
    imported: dict[str, str] = {}
    nodes = [node for cell in cells for node in ast.walk(cell)]
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {
                a.asname or a.name: f"{node.module}.{a.name}" for a in node.names
            }
    for node in nodes:
        if isinstance(node, ast.Call):
            yield (
                full_name(node.func, imported),
                {k.arg for k in node.keywords if k.arg},
            )


def missing(cells: list[ast.Module], wanted: list[str]) -> list[str]:
    """List the calls that no cell makes with these keywords."""
    made = list(calls(cells))
    lacking = []
    for call in wanted:
        name, _, rest = call.partition("(")
        keywords = {word.strip() for word in rest.rstrip(")").split(",") if rest}
        if not any(name == known and keywords <= given for known, given in made):
            lacking.append(call)
    return lacking


@pytest.mark.parametrize("chapter", CALLS)
def test_every_call_of_the_source_is_made(chapter: str) -> None:
    cells = code_of(chapter)
    assert not missing(cells, CALLS[chapter])
    text = "\n".join(ast.unparse(cell) for cell in cells)
    assert [part for part in ALSO.get(chapter, []) if part not in text] == []


def test_a_call_that_goes_is_noticed() -> None:
    cells = [
        ast.parse("from peft import get_peft_model as wrap\nimport evaluate"),
        ast.parse("model = wrap(base, config)\nmetric = evaluate.load('accuracy')"),
        ast.parse("rows.map(f, batched=True)\nload_dataset('ag_news')"),
    ]
    there = ["peft.get_peft_model", "evaluate.load", ".map(batched)"]
    gone = [".map(batch_size, batched)", "datasets.load_dataset", "peft.LoraConfig"]
    assert missing(cells, [*there, *gone]) == gone


FIRSTS = {
    "01_text_classification": ("datasets.load_dataset", "chapterlib.AG_NEWS.load"),
    "02_zero_shot": (".map", "chapterlib.PromptClassifier"),
    "03_few_shot": ("datasets.Dataset.from_pandas", "chapterlib.prompts.few_shot"),
    "06_quantization": (
        "transformers.BitsAndBytesConfig",
        "chapterlib.models.quantization_config",
    ),
    "08_training": ("transformers.Trainer", "chapterlib.FinetunedClassifier"),
}


@pytest.mark.parametrize("chapter", FIRSTS)
def test_the_library_s_object_comes_before_the_short_form(chapter: str) -> None:
    library, short = FIRSTS[chapter]
    names = [name for name, _ in calls(code_of(chapter))]
    assert short not in names or names.index(library) < names.index(short)


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_each_chapter_says_what_it_needs_and_gives(path: Path) -> None:
    box = nbformat.read(path, as_version=4).cells[1].source
    assert all(line.startswith(">") for line in box.splitlines())
    for part in ("You need", "It builds on", "You will have made"):
        assert f"**{part}**" in box
