from __future__ import annotations

import pytest

from ntdh_bench.parsing.messages import explain

UNION = """Parser key "trainer.logger":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.loggers.logger.Logger'>, <class 'bool'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning.pytorch.loggers.CSVLogger':
        the following arguments are required: save_dir
    - Expected a <class 'bool'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._namespace.Namespace'>
  Given value: Namespace(class_path='lightning.pytorch.loggers.CSVLogger')"""
LITERALS = """Parser key "trainer.precision":
  Does not validate against any of the Union subtypes
  Subtypes: [typing.Literal[64, 32], typing.Literal['16-mixed', 'bf16-mixed'], <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a typing.Literal['16-mixed', 'bf16-mixed']
    - Expected a typing.Literal['64', '32']
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: bf16mixed"""
NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'ntdh_bench.models.DistillationModule':
        Parser key "optimizer":
          Type typing.Callable[[collections.abc.Iterable], torch.optim.Optimizer] expects a function or a callable class: Parser key "lr":

            - Expected a path but nan either not accessible or invalid
            - Does not validate against any of the Union subtypes
            Subtypes: [<class 'float'>, <class 'torch.Tensor'>]
            Errors:
              - Expected a <class 'float'>
              - Expected a dot import path string: nan
            Given value type: <class 'str'>
            Given value: nan. Got value: Namespace(class_path='torch.optim.Adam')
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>"""  # noqa: E501


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (UNION, "trainer.logger: the following arguments are required: save_dir"),
        (
            LITERALS,
            "trainer.precision is 'bf16mixed': did you mean 'bf16-mixed'? choose one of "
            "'16-mixed', 'bf16-mixed', '64', '32'",
        ),
        (NESTED, "model.optimizer.lr: Expected a float"),
        ("unrecognized arguments: --foo 1", "there is no flag --foo: `--help` lists them"),
        (
            "Group 'trainer' does not accept option 'x'",
            "trainer has no setting 'x': `--help` lists them",
        ),
    ],
)
def test_the_reason_of_the_type_that_came_closest(message: str, line: str) -> None:
    assert explain(message) == line
