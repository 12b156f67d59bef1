"""Configuration of a run: frozen dataclasses, a section each.

`ddjax.config.reading` makes it from a file under configs/, `ddjax.config.checks` refuses what
cannot work.
"""

import dataclasses
from typing import Any

from ddjax.method.flow import Solver
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance
from ddjax.method.sampling import Settings
from ddjax.method.score_distillation import NoiseLevels

NO_DATA = "none"
LABELS = ("in_turn", "random")
KEPT = ("", "npz", "png")
MAP, SCORE = "map", "score"  # methods of distillation
SHAPES = "shapes"
FOLDER = "folder"
DATA_SETS = ("digits", "fashion_mnist", SHAPES, FOLDER, NO_DATA)
TFDS = "tfds:"  # and the name of one of its sets
TURNS = 4  # by a quarter each, which nets tell apart of images without classes
CLEANERS = ("llamagen", "lower", "none")


@dataclasses.dataclass(frozen=True)
class DataSection:
    """Images, and what they are conditioned on.

    Attributes:
      name: digits, fashion_mnist, shapes (which has captions); folder, one's own images;
        tfds:NAME, a set of TensorFlow Datasets, with @SPLIT behind it where that is not train; or
        none: distilling needs no images.
      image_size: pixels a side; images of another size are resized.
      num_classes: number of labels; 0 with captions, 1 for images without classes.
      directory: of one's own images; of Fashion-MNIST's IDX files, or "" to download them with
        TFDS; of other sets and of captions, where TFDS keeps them, or "" for where it usually does.
      image_channels: 1 or 3, for folder and tfds; other sets have theirs.
      skip_at_most: the largest share of images that may be left out because they cannot be read.
      cache: folder where images are kept as they are prepared; "" for ~/.cache/ddjax/images.
      copies: of each image, all but the first slightly turned, scaled and moved; they count as
        data. For sets so small that a teacher memorises them within a minute.
      captions: file of captions: their features (.npz, `ddjax.data.conditions.read_features`), or
        texts (`ddjax.data.captions`), which `text` encodes, or tfds:NAME for those of a data set of
        TFDS; "" for classes.
      captions_field: key or column of the captions, where there are several, or within one,
        captions/text; "" for "caption".
      captions_split: of a set of TFDS.
      captions_seed: of the order of texts; -1 for that of the file.
      captions_distinct: whether equal texts count once.
    """

    name: str
    image_size: int
    num_classes: int
    directory: str = ""
    image_channels: int = 0
    skip_at_most: float = 0.01
    cache: str = ""
    copies: int = 1
    captions: str = ""
    captions_field: str = ""
    captions_split: str = "train"
    captions_seed: int = -1
    captions_distinct: bool = False

    @property
    def is_prepared(self) -> bool:
        """Whether images are of any size and kind, and cropped and resized to be read."""
        return self.name == FOLDER or self.name.startswith(TFDS)


@dataclasses.dataclass(frozen=True)
class TrainSection:
    """One run of the training loop: AdamW, warm-up then cosine to zero, clipping, EMA.

    Attributes:
      steps: updates.
      batch: examples in each, over all devices.
      accumulate: a batch is computed in so many parts, one after another, so that it fits; a mean
        over each part, then over the parts.
      learning_rate: the highest, after `warmup` steps.
      weight_decay: on matrices only.
      clip: largest global norm of the gradient.
      b2: decay of Adam's second moment.
      ema: largest decay of the averaged weights; step n uses min(ema, (1 + n) / (10 + n)).
      log_every: steps between TensorBoard scalars; pictures come ten times in a run.
      checkpoint_every: steps between checkpoints.
      keep: checkpoints kept.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    b2: float = 0.95
    ema: float = 0.999
    accumulate: int = 1
    log_every: int = 50
    checkpoint_every: int = 500
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """A model, and where its weights come from: trained here, or a model folder.

    Attributes:
      kind: of `ddjax.models.MODELS`.
      model: its sizes, that kind's own frozen dataclass.
      train: how it is trained here, where `weights` is empty.
      weights: its model folder, or "random" to try things out.
    """

    kind: str
    model: Any
    train: TrainSection | None = None
    weights: str = ""


@dataclasses.dataclass(frozen=True)
class TokenizerSection(ModelSection):
    """The VQ tokenizer; weights of its loss beside the squared error of the pixels.

    Attributes:
      commitment: squared distance of features and codes, as seen by the encoder.
      entropy: keeps the codebook in use (entropy of a feature less that of the batch); for
        codebooks whose codes have norm 1.
      perceptual: distance of the images in a feature net.
      perceptual_net: that net; needed where `perceptual` is above 0.
      revive_every: steps between looks for codes that no feature of the batch is nearest to, which
        then take the places of features that are far from all codes; 0 for never.
      hold_out: whether the images that are kept from the teacher's training are kept from this one.
    """

    commitment: float = 0.25
    entropy: float = 0.05
    perceptual: float = 0.0
    perceptual_net: ModelSection | None = None
    revive_every: int = 0
    hold_out: bool = False


@dataclasses.dataclass(frozen=True)
class TeacherSection(ModelSection):
    """The AR teacher; `label_dropout` is the share of labels replaced by "no condition"."""

    label_dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class TextSection(ModelSection):
    """The text encoder, for captions that are texts; it is never trained here.

    Attributes:
      pieces: its vocabulary, a `spiece.model` of SentencePiece; "" with random weights makes one
        from the captions.
      clean: how captions are cleaned (`ddjax.data.cleaning`): llamagen, lower or none.
      cache: folder that keeps the features of the captions that pairs, distill and evaluate read,
        in bfloat16 (`ddjax.storage.feature_cache`); "" computes them whenever they are read.
    """

    pieces: str = ""
    clean: str = "llamagen"
    cache: str = ""


@dataclasses.dataclass(frozen=True)
class PairsSection:
    """Pairs (noise index, condition, ids).

    Attributes:
      count: how many.
      per_shard: in a file.
      batch: made at once on each device; which devices and how many does not matter to a pair.
    """

    count: int
    per_shard: int
    batch: int


@dataclasses.dataclass(frozen=True)
class StudentSection:
    """The student and how it is sampled from.

    Attributes:
      kind: of `ddjax.models.MODELS`; sizes are the teacher's.
      steps: the values of k it is trained on and sampled with, in order; the first is 0.
      split: the first `split` groups are read from the logits, the rest from the vector head.
      weights: a model folder to sample from and evaluate, in place of the stage `distill`.
    """

    kind: str
    steps: tuple[int, ...]
    split: int
    weights: str = ""


@dataclasses.dataclass(frozen=True)
class ScoreSection:
    """Score distillation (`ddjax.stages.distill_score`).

    Attributes:
      train: of the student, and of the fake model that follows it; the rate is the student's.
      fake: how the fake model first learns the student that it begins with.
      fake_updates: of the fake model, before each of the student.
      fake_rate: the fake model's rate, in units of the student's.
      passes: images are drawn in 1 to so many passes of a refining student, as many of each.
      levels: of the noise that tokens are compared under.
      temperature: of the softmax behind the arg max, in the gradient.
    """

    train: TrainSection
    fake: TrainSection
    fake_updates: int = 3
    fake_rate: float = 2.5
    passes: int = 1
    levels: NoiseLevels = dataclasses.field(default_factory=NoiseLevels)
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class DistillSection:
    """Training of the student.

    Attributes:
      train: how.
      perceptual_net: of the perceptual loss.
      start: model folder of a student to begin with, such as a converted one; by default it begins
        with the teacher's weights. A refining student may begin with one that is not.
      method: "map" (Distilled Decoding 1), "score" (score distillation alone), or "map,score", the
        second on top of the first.
      score: of the method "score".
      cross_entropy: weight of this loss.
      perceptual: weight of that one.
      validate_every: steps between validations on held-out noise; 0 for none.
      validate_samples: images of each.
      keep_best: the student at the end is that of the best validation by "tokens_equal" or "fd"
        (`ddjax.stages.held_out`); "": that of the last step.
    """

    train: TrainSection
    perceptual_net: ModelSection
    start: str = ""
    method: tuple[str, ...] = ("map",)
    score: ScoreSection | None = None
    cross_entropy: float = 1.0
    perceptual: float = 1.0
    validate_every: int = 0
    validate_samples: int = 2000
    keep_best: str = ""


@dataclasses.dataclass(frozen=True)
class ClipSection(ModelSection):
    """CLIP, for the score of images and their captions; `weights` "" leaves it out.

    Attributes:
      vocabulary: its `bpe_simple_vocab_16e6.txt.gz`.
    """

    vocabulary: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluateSection:
    """What the report measures.

    Attributes:
      samples: images in a set of samples.
      sets: independent sets of samples for each row; figures are means over them, and where there
        is more than one, standard deviations.
      batch: images made at once on each device; on one in the stage `sample`.
      methods: rows, by name (`ddjax.method.ways`).
      neighbours: k of precision and recall.
      features: the net whose features are compared; not the one of the perceptual loss.
      clip: gives the CLIP score of samples drawn from captions, where it has weights.
      reference: what samples are compared with: a folder of images, or an .npz file of images or
        of statistics, ADM's, pytorch-fid's or ours; "" for the run's own data.
      labels: conditions of the samples: in_turn, as many of each as there can be, or random.
      keep: whether samples are kept too: npz (ADM's), png, or "" for not.
      checkpoint_every: batches between saves of a set that is being drawn.
    """

    samples: int
    batch: int
    methods: tuple[str, ...]
    features: ModelSection
    sets: int = 3
    neighbours: int = 3
    clip: ClipSection | None = None
    reference: str = ""
    labels: str = "in_turn"
    keep: str = ""
    checkpoint_every: int = 20


@dataclasses.dataclass(frozen=True)
class SampleSection:
    """Images to draw.

    Attributes:
      method: how, by name (`ddjax.method.ways`).
      labels: classes to draw, where the teacher is conditioned on classes.
      captions: numbers of the captions to draw, where it is conditioned on captions.
      prompts: captions of one's own to draw, where there is a text encoder, with | between them;
        a | within one is written with a backslash before it.
      count: how many to draw, of all conditions in turn, where none are named.
    """

    method: str = "student_1step"
    labels: tuple[int, ...] = ()
    captions: tuple[int, ...] = ()
    prompts: str = ""
    count: int = 20


@dataclasses.dataclass(frozen=True)
class MeshSection:
    """How the devices share the work: `fsdp` of them hold one copy of what is trained.

    Parameters, their average and the optimizer's state are cut into `fsdp` parts; there are
    devices / fsdp such copies, and every device has its share of the batch.
    """

    fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class HostsSection:
    """The processes of a run.

    Attributes:
      coordinator: "" for one process; "auto" where JAX finds the others (TPU pods, SLURM, GKE);
        else HOST:PORT, a free port of the first process' machine.
      count: how many processes there are, for HOST:PORT.
      index: which of them this is, from 0.
    """

    coordinator: str = ""
    count: int = 1
    index: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs; see the classes of the fields.

    Attributes:
      text: the encoder of captions that are texts; none otherwise.
      restore: the checkpoint to continue from: latest or previous, the one before.
      profile: two numbers: training steps to trace for TensorBoard, from the first to just before
        the second; none by default.
    """

    name: str
    seed: int
    stages: tuple[str, ...]
    data: DataSection
    tokenizer: TokenizerSection
    teacher: TeacherSection
    pairs: PairsSection
    student: StudentSection
    distill: DistillSection
    evaluate: EvaluateSection
    text: TextSection | None = None
    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    flow: Solver = dataclasses.field(default_factory=Solver)
    sample: SampleSection = SampleSection()
    mesh: MeshSection = MeshSection()
    hosts: HostsSection = HostsSection()
    restore: str = "latest"
    profile: tuple[int, ...] = ()

    @property
    def has_captions(self) -> bool:
        """Whether images are made from captions, not classes."""
        return bool(self.data.captions) or self.data.name == SHAPES

    @property
    def clip(self) -> ClipSection | None:
        """The net of the CLIP score, where there is to be one."""
        section = self.evaluate.clip
        return section if section is not None and section.weights else None

    @property
    def groups(self) -> Groups:
        """The teacher's groups."""
        return self.teacher.model.groups

    @property
    def student_model(self) -> ModelSection:
        """The student; its sizes are the teacher's."""
        return ModelSection(self.student.kind, self.teacher.model, weights=self.student.weights)

    @property
    def sampling(self) -> Settings:
        """The numbers behind the ways of sampling."""
        return Settings(self.student.steps, self.student.split, self.guidance, self.flow)
