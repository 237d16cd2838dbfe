"""A step of TRL's GRPOTrainer on the eviction environment: a random model, replies that are scripted."""

import json

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen2_5_chat_template

from kv_cache_rl.adapters.trl import EvictionEnvironment, rows
from kv_cache_rl.sim.eviction import Call, Episode, load_scenarios, replay
from kv_cache_rl.sim.eviction.deciders import decider
from kv_cache_rl.sim.eviction.episode import play

ROLLOUTS = 4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WAYS = ("learned", "keep", "one reply without a call", "evict what comes first")
"""How each rollout of the group is played."""
NO_CALL = "I keep everything.<|im_end|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of an episode, with Qwen2.5's special tokens and template."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    texts = [message["content"] for message in rows(num_examples=1)[0]["prompt"]]
    episode = Episode(load_scenarios(split="train", difficulty="easy", num_examples=1)[0], "brief")
    while not episode.done:
        texts.append(episode.prompt())
        episode.step([Call("keep")])
    bare.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=4_000, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=100_000
    )
    made.chat_template = qwen2_5_chat_template
    return made


def model(vocabulary: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=65_536,
        )
    )


class Scripted(GRPOTrainer):
    """A trainer whose model says what it is told to; all else is TRL's."""

    def _generate_single_turn(self, prompt_ids, *_, **__):
        if not hasattr(self, "shadows"):
            self.shadows = [Episode(one._episode.scenario, "brief") for one in self.environments]
            self.alive = list(range(ROLLOUTS))
        said = {way: self.say(way) for way in self.alive}
        assert len(said) == len(prompt_ids)
        # A rollout ends with the first reply that makes no call.
        self.alive = [way for way in self.alive if said[way] != NO_CALL]
        return [self.processing_class.encode(text) for text in said.values()], None

    def say(self, way: int) -> str:
        shadow = self.shadows[way]
        if WAYS[way].startswith("one reply") or shadow.done:
            return NO_CALL
        lists = {"evict": [], "compress": [], "swap_to_cpu": []}
        if WAYS[way] == "learned":
            for call in decider("learned")(shadow.observation()):
                if call.verb in lists:
                    lists[call.verb].append(shadow.named(call, shown=True).seq_id)
        elif WAYS[way].startswith("evict"):
            lists["evict"].append(json.loads(shadow.prompt())["rows"][0].split()[0])
        calls = [Call(verb, one) for verb in lists for one in lists[verb]]
        shadow.step(calls or [Call("keep")])
        return f"<tool_call>\n{json.dumps({'name': 'act', 'arguments': lists})}\n</tool_call><|im_end|>"


@pytest.mark.filterwarnings("ignore")
def test_a_step_of_grpo_gives_the_rewards_that_replay_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    words = tokenizer()
    network = model(len(words))
    before = {name: value.clone() for name, value in network.named_parameters()}
    trainer = Scripted(
        model=network,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=ROLLOUTS,
            num_generations=ROLLOUTS,
            max_completion_length=16_384,
            max_steps=1,
            learning_rate=1e-2,
            beta=0.0,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows(difficulty="easy", num_examples=1)),
        processing_class=words,
        environment_factory=EvictionEnvironment,
    )
    trainer.train()
    (scenario,) = load_scenarios(split="train", difficulty="easy", num_examples=1)
    rewards = [environment.get_reward() for environment in trainer.environments]
    logs = [environment._episode.log for environment in trainer.environments]
    assert rewards == [replay(scenario, log).normalized for log in logs]
    told = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert told["reward"] == pytest.approx(sum(rewards) / ROLLOUTS, abs=1e-5)
    keep = play(Episode(scenario), decider("keep")).report().normalized
    learned, kept, silent, evicted = rewards
    assert kept == silent == keep, "a rollout that ends without a call goes on as keep"
    assert learned > keep and evicted != keep
    moved = max(float((value - before[name]).abs().max()) for name, value in network.named_parameters())
    assert moved > 0, "the step changed the weights"
