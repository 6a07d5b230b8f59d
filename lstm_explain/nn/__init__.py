"""The ground floor: the equations, once readable (`equations`) and once fast (`kernels`), and the layers made of them."""
