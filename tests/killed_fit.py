"""`training.fit`, killed at KILL_AT=STAGE:STEP by the signal KILL_BY, `kill -9` unless given."""

import os
import signal
import sys

from training import fit, session

stage, step = os.environ["KILL_AT"].split(":")
record = session.Recorder.on_train_batch_end


def on_train_batch_end(self, batch, logs=None):
    record(self, batch, logs)
    if self.stage.number == int(stage) and self._step() >= int(step):
        os.kill(os.getpid(), int(os.environ.get("KILL_BY", signal.SIGKILL)))


session.Recorder.on_train_batch_end = on_train_batch_end
sys.exit(fit.main())
