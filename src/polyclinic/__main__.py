"""`python -m polyclinic`, as `torchrun … -m polyclinic pretrain …` starts it."""

from .cli import main

main()
