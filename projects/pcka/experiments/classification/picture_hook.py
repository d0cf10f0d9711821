"""Pictures of a training while it runs, for TensorBoard."""

from torch.utils.tensorboard import SummaryWriter

from pcka.classification.engine import Engine

from .finished_run import ClassificationRun, figures


class PictureHook:
    """Draw what the student takes over, after every ``period`` epochs of a distillation."""

    def __init__(self, period: int):
        self.period = period

    def __call__(self, engine: Engine, epoch: int, writer: SummaryWriter) -> None:
        distiller = engine.distiller
        if distiller.teacher is None or distiller.distill is None or (epoch + 1) % self.period:
            return
        students = {"student": engine.student}
        run = ClassificationRun(
            engine.cfg, students, distiller.teacher, distiller.distill, engine.data
        )
        for name, figure in figures(run):
            writer.add_figure(name, figure, engine.step)
