"""What the command line says to those who mistype."""

import pytest

from doorward.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek"], "doorward: error: there is no command 'chek'; did you mean 'check'?"),
        (["device", "enrol"], "doorward device: error: there is no command 'enrol'; did you mean 'enroll'?"),
        (["keys", "x"], "doorward keys: error: there is no command 'x'; there are rotate-master, reseal, sealed"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_what_is_not_for_people_is_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["qqq"])
    assert "worker" not in capsys.readouterr().err
