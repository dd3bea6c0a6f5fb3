"""What runs on NVIDIA GPUs through numba: optical flow for many pairs at once.

Nothing here is imported unless a GPU engine is asked for; numba is the extra `gpu`.
"""
