"""What was measured: speed and memory of the same weights in k2mlx and in mlx-lm.

Both engines live in one process and share every array that can be shared; rounds alternate between
them, so both see the same weather. A ratio above 1 always means that k2mlx is better.

    machine, slice   what it runs on, and weights for it without a file
    peer             our weights in mlx-lm
    contest          both engines over one model, and whether they compute the same
    ours, theirs     how each of the two does a job, and what it took
    cases            the jobs
    rounds           who runs when; medians; the rows
    where            where the time of one decoded token goes
"""
