"""Model repositories: fetched from a hub, checked, kept under the home folder.

The only part of k2mlx that talks to another machine, and only when `k2mlx pull` is typed.

    remote.py    requests with patience, and their failures in one line
    snapshot.py  repository and revision -> a commit, and its files with sizes and hashes
    select.py    which of these files a model, or one rank's layers, need
    transfer.py  one file: resumed where it stopped, checked against its hash
    pull.py      a whole model: disk, files side by side, visible only when complete
    store.py     the models on this machine: listed, removed
"""
