"""The peer of gemm.mjs: torch's fp32 matmul. Prints, for each case, the milliseconds of the fastest run.

usage: gemm.py CASES_JSON THREADS   (CASES_JSON: a list of {"M", "N", "K"})
"""
import json
import sys
import time

import torch


def best(work):
    work()
    fastest, end = float("inf"), time.perf_counter() + 0.25
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest * 1e3


def measure(M, N, K):
    x, w, dy = torch.rand(M, K) - 0.5, torch.rand(N, K) - 0.5, torch.rand(M, N) - 0.5
    y, dx, dw = torch.empty(M, N), torch.empty(M, K), torch.empty(N, K)
    return {
        "forward": best(lambda: torch.mm(x, w.T, out=y)),
        "inputGradient": best(lambda: torch.mm(dy, w, out=dx)),
        "weightGradient": best(lambda: torch.mm(dy.T, x, out=dw)),
    }


torch.set_num_threads(int(sys.argv[2]))
print(json.dumps([measure(**case) for case in json.loads(sys.argv[1])]))
