"""Which samples have come to their end."""

from __future__ import annotations

from torch import Tensor


def eos_finished(
    cur_x: Tensor,
    sampled_tokens: Tensor,
    final_transfer: Tensor,
    finished: Tensor,
    eos_token_id: int,
    mask_token_id: int,
    prompt_length: int,
) -> Tensor:
    """[B] bool: finished before, or EOS was committed in this step and no mask stands before the answer's first one.

    cur_x: [B, S] int64, the sequences up to this block's end. sampled_tokens, final_transfer: [B, L], the block's
    tokens, and which of them were committed. finished: [B] bool, changed in place as diffusers does.
    """
    answer = cur_x[:, prompt_length:]
    committed = ((sampled_tokens == eos_token_id) & final_transfer).any(-1)
    ended = (answer == eos_token_id).cumsum(-1) > 0  # from the first EOS on
    holes = ((answer == mask_token_id) & ~ended).any(-1)
    return finished.logical_or_(committed & ended.any(-1) & ~holes)
