"""Kernels of torch (cuBLAS, SDPA) and bitsandbytes at the shapes of bench/suites/kernels.mjs.

A case is prepared first; then every question for a sample is answered with one of each peer. On the GPU the time of a call is
that of a CUDA graph of calls, replayed between two events, so that Python costs nothing; inputs rotate over more than its
second-level cache. The first of the answer's peers is the one a ratio is taken against.
"""
import math

import peer_protocol  # first: takes stdout
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

dtypes = {"cuda": torch.bfloat16, "cpu": torch.float32}


samplers = {}


def answer(question):
    if "sample" in question:
        return {"milliseconds": {name: sample() for name, sample in samplers.items()}}
    samplers.clear()
    if question["device"] == "cuda":
        torch.cuda.empty_cache()
    with torch.device(question["device"]):
        torch.manual_seed(0)
        samplers.update(peers_of[question["case"]](question))
    return {}


def copies(case, bytes_read, make):
    return [make() for _ in range(max(2, math.ceil(case["rotated"] / bytes_read)))]


def random(case, *shape, deviation=0.02):
    return torch.randn(shape, dtype=dtypes[case["device"]]) * deviation


def gemm(case):
    m, n, k = case["m"], case["n"], case["k"]
    turn_a, turn_b = case["orientation"][0] == "t", case["orientation"][1] == "t"
    make = lambda: (random(case, *((k, m) if turn_a else (m, k))), random(case, *((n, k) if turn_b else (k, n))))
    inputs = copies(case, dtypes[case["device"]].itemsize * k * (m + n), make)
    out = torch.empty((m, n), dtype=dtypes[case["device"]])
    product = lambda a, b: torch.mm(a.t() if turn_a else a, b.t() if turn_b else b, out=out)
    return {"cuBLAS bf16" if case["device"] == "cuda" else "torch f32": sampler(case, product, inputs)}


def nf4_weights(case, rows, columns):
    import bitsandbytes.functional as bnb

    w = random(case, rows, columns)
    return copies(case, 0.516 * rows * columns, lambda: bnb.quantize_4bit(w, quant_type="nf4", compress_statistics=True))


def nf4_gemm(case):
    peers = gemm(case)
    if case["device"] == "cpu":
        return peers
    import bitsandbytes

    m, n, k = case["m"], case["n"], case["k"]
    x = random(case, m, k)
    forward = case["orientation"] == "nt"
    inputs = nf4_weights(case, *((n, k) if forward else (k, n)))
    # Backward as bitsandbytes has it: the weight dequantised, then a product
    backward = lambda packed, state: x @ bitsandbytes.functional.dequantize_4bit(packed, state)
    product = lambda packed, state: bitsandbytes.matmul_4bit(x, packed.t(), quant_state=state)
    peers["bitsandbytes"] = sampler(case, product if forward else backward, inputs)
    return peers


def dequantize_nf4(case):
    import bitsandbytes

    weights = nf4_weights(case, case["m"], case["n"])
    return {"bitsandbytes": sampler(case, bitsandbytes.functional.dequantize_4bit, weights)}


def attention(case, backward):
    on_gpu = case["device"] == "cuda"
    backends = {"flash": SDPBackend.FLASH_ATTENTION}
    if on_gpu:
        backends["cuDNN"] = SDPBackend.CUDNN_ATTENTION
    peers = {}
    for name, backend in backends.items():
        try:
            with sdpa_kernel(backend):
                peers[f"torch SDPA ({name})"] = attention_sampler(case, backward)
        except RuntimeError as error:
            if name == "flash":
                raise
            print(f"no {name}: {error}")
    return peers


def attention_sampler(case, backward):
    rows, dim = case["sequences"], case["headDim"]
    length, heads, kv_heads = case["m"] // rows, case["n"] // dim, case["k"] // dim
    shapes = [(rows, count, length, dim) for count in (heads, kv_heads, kv_heads, heads)]
    make = lambda: [random(case, *shape, deviation=1).requires_grad_(backward) for shape in shapes]
    bytes_read = 2 * dtypes[case["device"]].itemsize * case["m"] * (case["n"] + case["k"])
    inputs = copies(case, bytes_read, make)

    def forward(q, k, v, _dy):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    if not backward:
        with torch.no_grad():
            return sampler(case, forward, inputs)
    side = torch.cuda.Stream() if case["device"] == "cuda" else None
    with torch.cuda.stream(side):  # backward runs in the stream of its forward, which a graph must capture
        graphs = [(forward(*parts), parts) for parts in inputs]
    gradients = lambda y, parts: torch.autograd.grad(y, parts[:3], parts[3], retain_graph=True)
    return sampler(case, gradients, graphs, side)


def sampler(case, work, inputs, stream=None):
    """What gives the milliseconds of one call of `work`, over all of `inputs`."""

    def run():
        for arguments in inputs:
            work(*arguments)

    if case["device"] == "cpu":
        return lambda: peer_protocol.milliseconds(run) / len(inputs)
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    once = event_milliseconds(graph.replay, 1)
    replays = max(1, math.ceil(20 / max(once, 1e-3)))
    return lambda: event_milliseconds(graph.replay, replays) / len(inputs)


def event_milliseconds(work, times):
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    for _ in range(times):
        work()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / times


peers_of = {
    "gemm-bf16": gemm,
    "gemm-f32": gemm,
    "gemm-nf4": nf4_gemm,
    "dequantize-nf4": dequantize_nf4,
    "attention-forward": lambda case: attention(case, backward=False),
    "attention-backward": lambda case: attention(case, backward=True),
}
peer_protocol.serve(answer)
