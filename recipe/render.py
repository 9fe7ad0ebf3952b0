"""Parses and renders ``recipe.yaml`` with rattler-build's own code: what a linter does first."""

from pathlib import Path

from rattler_build import RenderConfig, Stage0Recipe, VariantConfig

RECIPE = Path(__file__).with_name("recipe.yaml")


def main() -> None:
    """Print what would be built; a faulty recipe ends in an error that names the line."""
    recipe = Stage0Recipe.from_yaml(RECIPE.read_text(encoding="utf-8"))
    for variant in recipe.render(VariantConfig(), RenderConfig()):
        package, requirements = variant.recipe.package, variant.recipe.requirements
        print(f"{package.name} {package.version}: noarch, {len(requirements.run)} requirements")


if __name__ == "__main__":
    main()
