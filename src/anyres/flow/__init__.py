"""The mathematics of flow matching, on tensors only. Imports with torch alone.

Convention: t = 0 is data, t = 1 is noise, x_t = α(t)·x + σ(t)·ε, velocity = dx_t/dt (ε − x on the linear path).

    path.py      x, ε, t → x_t and velocity; score from velocity
    time.py      times of training, and of a solver's steps
    loss.py      the three losses, a value a token
    guidance.py  classifier-free guidance and autoguidance as a velocity
    solvers.py   Euler, Heun, Euler–Maruyama: pure functions

Import from the modules; this file imports nothing.
"""
