"""One job on several processes and machines: torchrun, SLURM, and workers that share shards."""
