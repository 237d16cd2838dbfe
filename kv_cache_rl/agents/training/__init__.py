"""Training the networks that serve, by Stable-Baselines3 on the compiled batch; they play without it.

`plan` says how, `course` goes from round to round, `masked_ppo` and `deep_q` learn, `demonstrator` shows."""
