#!/usr/bin/env python3
"""Train or evaluate a detector: ``pcka train`` from a checkout.

tools/train_net.py --config-file configs/pcka_faster_rcnn.yaml [--num-gpus N] [--resume]
                   [--eval-only] [KEY VALUE ...]
"""

import sys

from pcka.detection.train import main

if __name__ == "__main__":
    sys.exit(main())
