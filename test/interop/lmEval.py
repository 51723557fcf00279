"""Scores of a model by lm-evaluation-harness. usage: lmEval.py MODEL_DIR CHOICES_JSONL QUESTIONS_JSONL SHOTS"""
import json
import sys

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

model_dir, choices, questions, shots = sys.argv[1:5]


def task(name, file, **rest):
    data = {"train": file, "test": file}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": data}, "test_split": "test",
            "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}, **rest}


tasks = [
    task("choices", choices, output_type="multiple_choice", doc_to_text="prompt", doc_to_choice="choices",
         doc_to_target="answer", num_fewshot=int(shots), metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}]),
    task("questions", questions, output_type="generate_until", doc_to_text="prompt", doc_to_target="completion",
         target_delimiter="", num_fewshot=0, generation_kwargs={"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
         metric_list=[{"metric": "exact_match"}]),
]
model = HFLM(pretrained=model_dir, dtype="float32", device="cpu", batch_size=1, add_bos_token=True)
results = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=TaskManager(include_defaults=False), log_samples=True)
rows = results["results"]
print(json.dumps({
    "accuracy": rows["choices"]["acc,none"],
    "normalizedAccuracy": rows["choices"]["acc_norm,none"],
    "standardError": rows["choices"]["acc_stderr,none"],
    "losses": [[-response[0][0] for response in sample["resps"]] for sample in results["samples"]["choices"]],
    "exactMatch": rows["questions"]["exact_match,none"],
    "generated": [sample["resps"][0][0] for sample in results["samples"]["questions"]],
}))
