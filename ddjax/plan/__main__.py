"""Plan command: `python -m ddjax.plan`; see `ddjax.plan.report`."""

from absl import flags

from ddjax import cli
from ddjax.config.schema import Config
from ddjax.plan import report
from ddjax.runtime.devices import DEVICES

_DEVICES = flags.DEFINE_integer("devices", 1, "How many", lower_bound=1)
_DEVICE = flags.DEFINE_enum("device", None, list(DEVICES), "Which kind")
_COMPILE = flags.DEFINE_bool(
    "compile", False, "Also compile the programs for simulated devices; takes minutes"
)
_UTILISATION = flags.DEFINE_float(
    "utilisation", 0.3, "Share of the data sheet's rates that is reached"
)


def main(config: Config) -> None:
    """Print the plan."""
    print(report.report(config, _DEVICES.value, _DEVICE.value, _UTILISATION.value))
    if _COMPILE.value:
        print("\n" + report.compiled_table(config, _DEVICES.value))


if __name__ == "__main__":
    flags.mark_flag_as_required("device")
    cli.start(main)
