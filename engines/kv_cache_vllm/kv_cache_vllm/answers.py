"""Answers that are given, not sampled: what decoding writes is known before, and the same in every run."""

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor


class GivenAnswers(AdapterLogitsProcessor):
    """Leaves each request one token to choose: the next of the answer in its `extra_args`."""

    def is_argmax_invariant(self) -> bool:
        """It changes which token is the likeliest."""
        return False

    def new_req_logits_processor(self, params: SamplingParams):
        """What changes the logits of a request; None where no answer is given."""
        answer = (params.extra_args or {}).get("answer")
        if answer is None:
            return None

        def only_the_next(output: list[int], logits: torch.Tensor) -> torch.Tensor:
            chosen = torch.full_like(logits, float("-inf"))
            chosen[answer[len(output)]] = 0.0
            return chosen

        return only_the_next


def answering(answer: list[int]) -> SamplingParams:
    """Sampling that gives exactly this answer."""
    return SamplingParams(
        max_tokens=len(answer),
        temperature=0,
        ignore_eos=True,
        detokenize=False,
        extra_args={"answer": answer},
    )
