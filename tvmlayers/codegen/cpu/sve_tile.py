"""A register tile of SVE's vectors, in LLVM's own language: TVM has no multiply-add by element of a
scalable vector.

Vectors are taken for 256 bits, two quads of 16 bytes: a caller asks `WORDS` first. One load brings
a quad of a row of x to both halves of a register, whose elements are multiplied with rows of W.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

VECTOR_BYTES, QUAD_BYTES = 32, 16
_ELEMENTS = {"float32": ("float", 4), "float64": ("double", 8)}
# Separate sums of an element until the end, by rows: eight vectors of them, in all, hide
# the latency of a multiply-add.
_STREAMS = {1: 4, 2: 2, 3: 2}
WORDS = "tvmlayers_sve_words"
WORDS_TEXT = f"""
define i64 @{WORDS}() {{
  %words = call i64 @llvm.vscale.i64()
  ret i64 %words
}}
declare i64 @llvm.vscale.i64()
"""


@dataclass(frozen=True)
class TileText:
    """`void name(x, w, k, sums)`: x (rows, k) by a panel w (k, width), into sums (rows, width)."""

    rows: int
    width: int
    dtype: str

    @property
    def name(self) -> str:
        return f"tvmlayers_sve_{self.rows}x{self.width}_{self.dtype}"

    def text(self) -> str:
        """Some quads of k at a time come first, then the steps that are left, one by one."""
        parts = [self._enter(), self._quads(), self._add_streams(), self._rest(), self._store()]
        return "\n".join([line for part in parts for line in part] + self._declared())

    @property
    def _element(self) -> str:
        return _ELEMENTS[self.dtype][0]

    @property
    def _itemsize(self) -> int:
        return _ELEMENTS[self.dtype][1]

    @property
    def _quad(self) -> int:
        """Elements of a quad."""
        return QUAD_BYTES // self._itemsize

    @property
    def _vectors(self) -> int:
        """Vectors of a row of the panel."""
        return self.width * self._itemsize // VECTOR_BYTES

    @property
    def _streams(self) -> int:
        return _STREAMS[self.rows]

    @property
    def _steps(self) -> int:
        """Of k in an iteration: whole quads, and one for each stream at least."""
        return max(self._quad, self._streams)

    @property
    def _vector(self) -> str:
        return f"<vscale x {self._quad} x {self._element}>"

    @property
    def _mask(self) -> str:
        return f"<vscale x {self._quad} x i1>"

    @property
    def _kind(self) -> str:
        """The end of an intrinsic's name."""
        return f"nxv{self._quad}f{8 * self._itemsize}"

    @property
    def _places(self) -> list[tuple[int, int]]:
        """(row, vector) of the tile."""
        return list(product(range(self.rows), range(self._vectors)))

    def _enter(self) -> Iterator[str]:
        yield f"define void @{self.name}(ptr %x, ptr %w, i64 %k, ptr %sums) {{"
        yield "entry:"
        yield f"  %lanes = call {self._mask} @llvm.aarch64.sve.ptrue.nxv{self._quad}i1(i32 31)"
        yield f"  %whole = and i64 %k, -{self._steps}"
        yield "  %some = icmp ne i64 %whole, 0"
        yield "  br i1 %some, label %quads, label %rest"

    def _quads(self) -> Iterator[str]:
        vector, steps, streams = self._vector, self._steps, self._streams
        yield "quads:"
        yield "  %s = phi i64 [0, %entry], [%s.next, %quads]"
        for (r, v), stream in product(self._places, range(streams)):
            last = f"[%made{r}.{v}.{steps - streams + stream}, %quads]"
            yield f"  %sum{r}.{v}.{stream} = phi {vector} [zeroinitializer, %entry], {last}"
        for r, first in product(range(self.rows), range(0, steps, self._quad)):
            quad = f"%quad{r}.{first}"
            yield f"  {quad}.step = add i64 %s, {first}"
            yield from self._element_of_x(quad, r, f"{quad}.step")
            load = f"@llvm.aarch64.sve.ld1rq.{self._kind}({self._mask} %lanes, ptr {quad})"
            yield f"  %x{r}.{first} = call {vector} {load}"
        yield from self._row_of_w("%panel", "%s")
        for step, v in product(range(steps), range(self._vectors)):
            yield from self._load(f"%w{step}.{v}", "%panel", step * self._vectors + v)
            for r in range(self.rows):
                yield self._multiply_add(r, v, step)
        yield f"  %s.next = add i64 %s, {steps}"
        yield "  %more = icmp ult i64 %s.next, %whole"
        yield "  br i1 %more, label %quads, label %added"

    def _multiply_add(self, r: int, v: int, step: int) -> str:
        """One vector of W times a step's element of a row of x, onto the stream of that step."""
        before = f"made{r}.{v}.{step - self._streams}"
        sums = before if step >= self._streams else f"sum{r}.{v}.{step}"
        lane, vector = step % self._quad, self._vector
        x = f"%x{r}.{step - lane}"
        given = f"{vector} %{sums}, {vector} %w{step}.{v}, {vector} {x}, i32 {lane}"
        called = f"@llvm.aarch64.sve.fmla.lane.{self._kind}({given})"
        return f"  %made{r}.{v}.{step} = call {vector} {called}"

    def _add_streams(self) -> Iterator[str]:
        yield "added:"
        last = self._steps - 1
        for r, v in self._places:
            yield f"  %total{r}.{v}.0 = freeze {self._vector} %made{r}.{v}.{last}"
            for stream in range(1, self._streams):
                before, other = f"%total{r}.{v}.{stream - 1}", f"%made{r}.{v}.{last - stream}"
                yield f"  %total{r}.{v}.{stream} = fadd {self._vector} {before}, {other}"
        yield "  br label %rest"

    def _rest(self) -> Iterator[str]:
        vector = self._vector
        yield "rest:"
        yield "  %q = phi i64 [0, %entry], [%whole, %added], [%q.next, %one]"
        for r, v in self._places:
            whole = f"[%total{r}.{v}.{self._streams - 1}, %added]"
            yield (
                f"  %all{r}.{v} = phi {vector} [zeroinitializer, %entry], {whole}, "
                f"[%more{r}.{v}, %one]"
            )
        yield "  %left = icmp ult i64 %q, %k"
        yield "  br i1 %left, label %one, label %done"
        yield "one:"
        yield from self._row_of_w("%row", "%q")
        for v in range(self._vectors):
            yield from self._load(f"%left{v}", "%row", v)
        for r in range(self.rows):
            yield from self._element_of_x(f"%place{r}", r, "%q")
            yield f"  %value{r} = load {self._element}, ptr %place{r}, align {self._itemsize}"
            first = f"{vector} poison, {self._element} %value{r}, i64 0"
            yield f"  %first{r} = insertelement {first}"
            every = f"{vector} %first{r}, {vector} poison, <vscale x {self._quad} x i32>"
            yield f"  %every{r} = shufflevector {every} zeroinitializer"
            for v in range(self._vectors):
                given = f"{vector} %left{v}, {vector} %every{r}, {vector} %all{r}.{v}"
                yield f"  %more{r}.{v} = call {vector} @llvm.fma.{self._kind}({given})"
        yield "  %q.next = add i64 %q, 1"
        yield "  br label %rest"

    def _store(self) -> Iterator[str]:
        yield "done:"
        for r, v in self._places:
            place = f"%sums{r}.{v}"
            yield self._vector_at("%sums", place, str(r * self._vectors + v))
            yield f"  store {self._vector} %all{r}.{v}, ptr {place}, align {self._itemsize}"
        yield "  ret void"
        yield "}"

    def _declared(self) -> list[str]:
        vector, kind = self._vector, self._kind
        three = ", ".join([vector] * 3)
        return [
            f"declare {self._mask} @llvm.aarch64.sve.ptrue.nxv{self._quad}i1(i32)",
            f"declare {vector} @llvm.aarch64.sve.ld1rq.{kind}({self._mask}, ptr)",
            f"declare {vector} @llvm.aarch64.sve.fmla.lane.{kind}({three}, i32)",
            f"declare {vector} @llvm.fma.{kind}({three})",
        ]

    def _element_of_x(self, made: str, row: int, step: str) -> Iterator[str]:
        """The place of a step of a row of x."""
        yield f"  {made}.row = mul i64 %k, {row}"
        yield f"  {made}.at = add i64 {made}.row, {step}"
        yield f"  {made} = getelementptr {self._element}, ptr %x, i64 {made}.at"

    def _row_of_w(self, made: str, step: str) -> Iterator[str]:
        """The place of a step of the panel."""
        yield f"  {made}.at = mul i64 {step}, {self._vectors}"
        yield self._vector_at("%w", made, f"{made}.at")

    def _load(self, made: str, pointer: str, vectors: int) -> Iterator[str]:
        """The vector that lies so many behind a place."""
        yield self._vector_at(pointer, f"{made}.at", str(vectors))
        yield f"  {made} = load {self._vector}, ptr {made}.at, align {self._itemsize}"

    def _vector_at(self, pointer: str, made: str, vectors: str) -> str:
        return f"  {made} = getelementptr {self._vector}, ptr {pointer}, i64 {vectors}"
