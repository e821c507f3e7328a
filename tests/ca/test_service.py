from tests.ca.world import World


async def test_first_start(world: World) -> None:
    assert [one.name for one in world.authorities.all] == ["root", "issuing", "factory"]
