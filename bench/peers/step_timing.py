"""Times a training step of a peer: forward, loss of all tokens, backward, clipping and AdamW."""
import gc

import torch

from peer_protocol import median_milliseconds


def prepare_adapters(model, dtype):
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in adapters:
        parameter.data = parameter.data.to(dtype)
    return adapters, torch.optim.AdamW(adapters, lr=1e-4, fused=True)


def time_steps(case, model, adapters, optimizer, vocab_size):
    device, on_gpu = case["device"], case["device"] == "cuda"
    rows, length = case["microBatchSize"], case["sequenceLength"]
    torch.manual_seed(1)
    ids = torch.randint(3, vocab_size, (rows, length), device=device)

    def step():
        with torch.autocast(device, dtype=torch.bfloat16, enabled=adapters[0].dtype == torch.float32):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    release(on_gpu)
    try:
        milliseconds = median_milliseconds(step, 7, torch.cuda.synchronize if on_gpu else lambda: None)
        peak = {"peakBytes": torch.cuda.max_memory_allocated()} if on_gpu else {}
        return {"tokensPerSecond": round(1000 * rows * length / milliseconds), **peak}
    finally:
        optimizer.zero_grad(set_to_none=True)
        release(on_gpu)


def release(on_gpu):
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def fastest_that_fits(attempts):
    """The first of `attempts`, which differ in what they keep for backward, that has the memory."""
    for attempt in attempts[:-1]:
        try:
            return attempt()
        except torch.OutOfMemoryError:
            pass
    return attempts[-1]()
