"""How a method that is written once becomes one of each client.

A method is a coroutine function over a `Line`, or an asynchronous generator, or a row of the endpoint table. On a
`Blocking` client calling it does the work and returns the result; on a `Concurrent` one it returns what to await.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from fetchmld.client.calls import Call
from fetchmld.client.line import Line, send

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """A client whose methods return when they are done. Its transport never suspends."""

    line: Line

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return cast(T, _finished(work))

    def iterate(self, pieces: AsyncGenerator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield _finished(anext(pieces))
                except StopAsyncIteration:
                    return
        finally:
            _finished(pieces.aclose())


class Concurrent:
    """A client whose methods are awaited, or iterated over with `async for`."""

    line: Line

    def run(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return work

    def iterate(self, pieces: AsyncGenerator[T]) -> AsyncIterator[T]:
        return pieces


def _finished(work: Any) -> Any:
    """The result of something awaitable that does not suspend."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking client's work was suspended")


class _Method:
    """What `help` and `inspect` need of a method that is made on access."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.__doc__ = work.__doc__

    def _dressed(self, method: Any) -> Any:
        method.__doc__ = self.__doc__
        method.__name__ = self._work.__name__
        method.__wrapped__ = self._work
        return method


class endpoint(_Method, Generic[P, T]):
    """A row of the endpoint table, a function that describes a call, as the method that sends it."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        super().__init__(build)

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Concurrent, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Blocking | Concurrent | None, owner: type) -> Any:
        if client is None:
            return self._work
        run, line, build = client.run, client.line, self._work
        return self._dressed(lambda *args, **kwargs: run(send(line, build(*args, **kwargs))))


class working(_Method, Generic[P, T]):
    """A coroutine function over a `Line`, as a method."""

    def __init__(self, work: Callable[Concatenate[Line, P], Coroutine[Any, Any, T]]) -> None:
        super().__init__(work)

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Concurrent, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Blocking | Concurrent | None, owner: type) -> Any:
        if client is None:
            return self._work
        run, line, work = client.run, client.line, self._work
        return self._dressed(lambda *args, **kwargs: run(work(line, *args, **kwargs)))


class flowing(_Method, Generic[P, T]):
    """An asynchronous generator over a `Line`, as a method that is iterated over."""

    def __init__(self, work: Callable[Concatenate[Line, P], AsyncGenerator[T]]) -> None:
        super().__init__(work)

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: Concurrent, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Blocking | Concurrent | None, owner: type) -> Any:
        if client is None:
            return self._work
        iterate, line, work = client.iterate, client.line, self._work
        return self._dressed(lambda *args, **kwargs: iterate(work(line, *args, **kwargs)))
