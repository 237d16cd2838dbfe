"""What ``eval`` evaluates: policies behind an embedded endpoint, and models on servers of their own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kv_cache_rl.cli.chat_options import DEFAULT_KEY_VAR, hosted_target, refuse_without_model
from kv_cache_rl.cli.eviction.options import choose_history, choose_policies, choose_view
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.files import slug, whole_text

DEFAULT_POLICIES = ["learned", "lru"]


def embedded_targets(policies: list[str]) -> list[dict]:
    return [{"model": name, "base_url": None, "api_key_var": "KV_CACHE_RL_NO_KEY"} for name in policies]


@contextmanager
def served(targets: list[dict]) -> Iterator[str | None]:
    """The base URL of the embedded endpoint, started only where a target needs it."""
    if all(target["base_url"] for target in targets):
        yield None
        return
    from kv_cache_rl.adapters.endpoint import serving

    with serving() as base_url:
        yield base_url


def targets_of(
    policy: list[str] | None,
    model: str | None,
    base_url: str | None,
    api_key_var: str | None,
    of_model: Mapping,
) -> list[dict]:
    """What a new run evaluates; `of_model` are the other options that only a model hears.

    Raises BadInput where the options do not fit together.
    """
    if model is not None and not model.strip():
        raise BadInput("--model is empty; name the model to evaluate, or leave it out")
    if model is not None and whole_text(model) != model:
        raise BadInput("--model is not UTF-8; name the model as its server lists it")
    if model is None:
        refuse_without_model(base_url, api_key_var, of_model)
    targets = embedded_targets(choose_policies(policy, [] if model else DEFAULT_POLICIES))
    targets += [hosted_target(model, base_url, api_key_var or DEFAULT_KEY_VAR)] if model else []
    names = [slug(target["model"], "model") for target in targets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            f"{twice[0]!r} is named twice, and both would write to one folder; evaluate one of them in "
            "a run of its own"
        )
    return targets


def shown(targets: list[dict], view: str | None, history: str | None) -> list[dict]:
    """The targets with the view and history that each plays: those given, or a model's brief view and a
    policy's full one, for which policies were written. Raises BadInput for one that does not exist."""
    kept = choose_history(history)
    return [
        target | {"view": choose_view(view, "brief" if target["base_url"] else "full"), "history": kept}
        for target in targets
    ]


def keep_shown(folder: Path, targets: list[dict], view: str | None, history: str | None) -> None:
    """Raises BadInput where a run would go on with another view or history than it began with."""
    for name, given in (("view", view), ("history", history)):
        for target in targets:
            if given is not None and given != target[name]:
                raise BadInput(
                    f"--{name} is {given}, but {folder} was begun with {name} {target[name]} for "
                    f"{target['model']}; leave out --{name}, or start a new run"
                )
