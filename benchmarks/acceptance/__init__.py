"""What a new GPU must show before runs are trusted to it: right numbers, no waiting, the speed that was counted.

A check is a function that gives named items one after the other; an item measures something and judges it by limits.
`run` goes through them. The command is scripts/accept_gpu.py; docs/gpu.md says what each line means.
"""
