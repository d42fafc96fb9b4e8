"""Accuracy as a local `evaluate` module: works offline, counts -1 as wrong."""

# `evaluate` scans this file for what it must install, one import a line.
import datasets
import evaluate
from sklearn.metrics import accuracy_score

_DESCRIPTION = """\
The share of rows whose predicted class id is the reference. A prediction of -1
means that the method gave no answer: the row stays in the denominator and
counts as wrong.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): class ids, -1 where there is no answer.
    references (list of int): true class ids, 0 or more.
    normalize (bool): True for the share of right rows, False for their number.
    sample_weight (list of float): one weight a row, or None.
Returns:
    accuracy (float): between 0 and 1, or the number of right rows.
Examples:
    >>> metric.compute(predictions=[0, 1, -1], references=[0, 1, 1])
    {'accuracy': 0.6666666666666666}
"""

_CITATION = "Pedregosa et al., Scikit-learn, JMLR 12, pp. 2825-2830, 2011"


class Accuracy(evaluate.Metric):
    """Accuracy over all rows, those without an answer included."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                predictions=datasets.Value("int32"), references=datasets.Value("int32")
            ),
        )

    def _compute(self, predictions, references, normalize=True, sample_weight=None):
        for row, (predicted, true) in enumerate(
            zip(predictions, references, strict=True)
        ):
            if predicted is None or predicted < -1:
                raise ValueError(
                    f"Row {row} of predictions holds {predicted}: give a class id, "
                    "or -1 where the method has no answer."
                )
            # A reference of -1 would make every missing answer a right one.
            if true is None or true < 0:
                raise ValueError(
                    f"Row {row} of references holds {true}, which is no class id: "
                    "leave rows without a label out."
                )
        options = {"normalize": normalize, "sample_weight": sample_weight}
        return {"accuracy": float(accuracy_score(references, predictions, **options))}
