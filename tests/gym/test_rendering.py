"""What is drawn: text, images, the terminal; a mode that is not offered is a warning."""

import gymnasium
import numpy as np
import pytest

import kv_cache_rl.gym  # noqa: F401
from kv_cache_rl.gym import ServingEnv, ServingVectorEnv
from kv_cache_rl.gym.picture import BAR, PAPER, ROW, TOP, TRACK
from kv_cache_rl.sim.serving.observe import OBSERVATION

SHORT = {"ticks": 300}


def loaded(env):
    """Plays until something has been admitted, and a few decisions on."""
    env.reset(seed=1)
    while not env.unwrapped.action_masks()[8]:
        env.step(17)
    for _ in range(9):
        env.step(8 if env.unwrapped.action_masks()[8] else 17)


def test_text_says_how_full_it_is_and_what_was_done_last():
    env = ServingEnv("medium", render_mode="ansi", **SHORT)
    assert env.render() == "no episode yet; call reset()"
    env.reset(seed=1)
    while not env.action_masks()[8]:
        env.step(17)
    seen, *_ = env.step(8)
    text = env.render()
    assert f"{100 * float(seen[0]):5.1f} %" in text.splitlines()[1]
    assert "last: admit_free" in text
    assert ServingEnv("medium").render() is None


def test_an_image_has_bars_as_long_as_the_numbers_they_show():
    env = ServingEnv("hard", render_mode="rgb_array", ticks=3_000, gpu_blocks=2_000)
    blank = env.render()
    loaded(env)
    image = env.render()
    assert image.dtype == np.uint8 and image.shape == blank.shape == (256, 544, 3)
    assert tuple(image[0, 0]) == PAPER and not np.array_equal(image, blank)
    share = float(env._observed[OBSERVATION.index("gpu_utilization_pct")])
    assert 0.05 < share < 1
    row = image[TOP + ROW // 4, BAR]
    assert int((row != TRACK).any(axis=1).sum()) == round(share * (BAR.stop - BAR.start))
    env.step(17)
    assert image.tobytes() != env.render().tobytes(), "a picture given earlier is not drawn over"


def test_to_the_terminal_each_step_is_printed_and_nothing_is_given(capsys):
    env = gymnasium.make("KVServing-easy-v0", render_mode="human", ticks=5)
    env.reset(seed=7)
    env.step(17)
    assert env.render() is None
    said = capsys.readouterr().out
    assert said.count("easy, seed 7") == 2 and said.count("last: do_nothing") == 1


@pytest.mark.parametrize("mode", ["pixels", "depth_array", 7])
def test_a_mode_that_is_not_offered_gives_a_warning_and_the_episode_goes_on(mode):
    with pytest.warns(UserWarning, match=f"render_mode is {mode!r}, which is not offered: nothing is drawn"):
        env = ServingEnv("easy", render_mode=mode, ticks=5)
    env.reset(seed=0)
    env.step(17)
    assert env.render() is None and env.render_mode is None


def test_a_batch_draws_each_server_and_warns_of_what_it_does_not_offer():
    env = ServingVectorEnv(3, "medium", render_mode="rgb_array", **SHORT)
    env.reset(seed=1)
    for _ in range(50):
        env.step(env.action_space.sample(mask=env.action_masks()))
    images = env.render()
    assert len(images) == 3 and images[0].shape == (256, 544, 3)
    texts = ServingVectorEnv(2, "medium", render_mode="ansi", **SHORT)
    texts.reset(seed=1)
    texts.step([17, 17])
    alone = ServingEnv("medium", render_mode="ansi", **SHORT)
    alone.reset(seed=2)
    alone.step(17)
    assert texts.render()[1] == alone.render()
    with pytest.warns(UserWarning, match="render_mode is 'human', which is not offered"):
        assert gymnasium.make_vec("KVServing-easy-v0", num_envs=2, render_mode="human").render() is None


def test_frames_of_an_episode_are_collected():
    env = gymnasium.make("KVServing-easy-v0", render_mode="rgb_array_list", ticks=5)
    env.reset(seed=0)
    env.step(17)
    assert [frame.shape for frame in env.render()] == [(256, 544, 3)] * 2
