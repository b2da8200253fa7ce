"""Point the gradient checker at a layer of one's own, and see it find a mistake."""

import numpy as np

import minidl as md


class Swish(md.Function):
    """x * sigmoid(x), with its derivative written by hand."""

    def forward(self, x):
        """The value."""
        self.x, self.s = x, 1 / (1 + np.exp(-x))
        return x * self.s

    def backward(self, gy):
        """The gradient of x."""
        return (gy * self.s * (1 + self.x * (1 - self.s)),)


class Mistaken(Swish):
    """The same with a factor forgotten."""

    def backward(self, gy):
        """Not the gradient of x."""
        return (gy * self.s * (1 + self.x),)


def main(seed: int = 0) -> str:
    """Check both; return what the checker says about the wrong one."""
    x = np.random.default_rng(seed).standard_normal((2, 3))
    print("Swish:", md.gradcheck(lambda x: md.apply(Swish(), x), [x]))
    try:
        md.gradcheck(lambda x: md.apply(Mistaken(), x), [x])
    except md.GradcheckError as error:
        print("Mistaken:", error)
        return str(error)
    raise SystemExit("the checker overlooked a wrong gradient")


if __name__ == "__main__":
    main()
