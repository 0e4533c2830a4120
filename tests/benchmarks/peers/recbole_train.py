"""RecBole's training speed, for bench_train: run by the interpreter that has it, which need not
have this project.

    python recbole_train.py JOB

JOB is a JSON file: pairs (an .npz of `user` and `item`, in order), folder (scratch), model,
settings (RecBole's own), threads, epochs, rows_per_example, seconds.
Prints one JSON line: examples/s of each timed epoch (or of as much of it as `seconds` allow), after
    a few steps for warming up.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch


class Timed:
    """A loader that ends after `seconds` or `steps` and counts the rows it gave; else as the loader
    itself.
    """

    def __init__(self, loader, seconds=float("inf"), steps=None):
        self.loader, self.seconds, self.most, self.rows = loader, seconds, steps, 0

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        began = time.perf_counter()
        for step, batch in enumerate(self.loader):
            if step == self.most or time.perf_counter() - began > self.seconds:
                return
            self.rows += len(batch)
            yield batch


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    pairs, root = np.load(job["pairs"]), Path(job["folder"]) / "bench"
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "bench.inter", "w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        out.writelines(
            f"{user}\t{item}\t{place}\n"
            for place, (user, item) in enumerate(zip(pairs["user"], pairs["item"], strict=True))
        )
    config = Config(
        model=job["model"],
        dataset="bench",
        config_dict={
            "data_path": job["folder"],
            "checkpoint_dir": job["folder"],
            "use_gpu": False,
            "show_progress": False,
            "seed": 1,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "group_by": "user",
                "order": "TO",
                "mode": "full",
            },
            **job["settings"],
        },
    )
    logging.getLogger().setLevel(logging.ERROR)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    network = get_model(config["model"])(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    trainer._train_epoch(Timed(train, steps=5), 0)
    rates = []
    for epoch in range(job["epochs"]):
        part, began = Timed(train, job["seconds"]), time.perf_counter()
        trainer._train_epoch(part, epoch)
        rates.append(part.rows / job["rows_per_example"] / (time.perf_counter() - began))
    print(json.dumps({"rates": rates, "parameters": sum(p.numel() for p in network.parameters())}))


if __name__ == "__main__":
    main()
