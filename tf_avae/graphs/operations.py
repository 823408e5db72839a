"""Which of TensorFlow's operations only compute, and whether a SavedModel has others.

A graph is a program: beside arithmetic it can read and write files, open connections and call
Python. Operations that are not on the lists here are taken to do so.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tf_avae.backend import private
from tf_avae.errors import InputError, first_few

IF_TRUSTED = "if you trust where it comes from, open it with --trust (in Python: trust=True)"
"""The remedy where a model may do more than compute."""

COMPUTES = frozenset(
    """
    Abs AccumulateNV2 Acos Acosh Add AddN AddV2 AdjustContrastv2 AdjustHue AdjustSaturation All
    Angle Any ApproximateEqual ArgMax ArgMin AsString Asin Asinh Assert Atan Atan2 Atanh AvgPool
    AvgPool3D AvgPool3DGrad AvgPoolGrad BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpace
    BatchToSpaceND BesselI0 BesselI0e BesselI1 BesselI1e Betainc BiasAdd BiasAddGrad BiasAddV1
    Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastGradientArgs BroadcastTo
    Bucketize Case Cast Ceil Cholesky CholeskyGrad ClipByValue CombinedNonMaxSuppression Complex
    ComplexAbs Concat ConcatOffset ConcatV2 Conj ConjugateTranspose Const Conv Conv2D
    Conv2DBackpropFilter Conv2DBackpropFilterV2 Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D
    Conv3DBackpropFilterV2 Conv3DBackpropInputV2 Cos Cosh CropAndResize Cross Cumprod Cumsum
    CumulativeLogsumexp DataFormatDimMap DataFormatVecPermute DecodeAndCropJpeg DecodeBase64
    DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePaddedRaw DecodePng DecodeRaw DecodeWebP
    DenseBincount DepthToSpace DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
    DepthwiseConv2dNativeBackpropInput Dequantize Diag DiagPart Digamma Dilation2D Div DivNoNan
    DynamicPartition DynamicStitch Einsum Elu EluGrad EmptyTensorList EncodeBase64 EncodeJpeg
    EncodePng EnsureShape Enter Equal Erf Erfc Erfinv EuclideanNorm Exit Exp ExpandDims Expint Expm1
    ExtractGlimpseV2 ExtractImagePatches ExtractJpegShape ExtractVolumePatches FFT FFT2D FFT3D
    FakeParam FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill
    Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3
    Gather GatherNd GatherV2 Greater GreaterEqual HSVToRGB HistogramFixedWidth IFFT IFFT2D IFFT3D
    IRFFT IRFFT2D IRFFT3D Identity IdentityN If Igamma Igammac Imag ImageProjectiveTransformV2
    ImageProjectiveTransformV3 InTopK InTopKV2 Inv InvGrad Invert InvertPermutation IsFinite IsInf
    IsNan L2Loss LRN LeakyRelu LeakyReluGrad LeftShift Less LessEqual Lgamma LinSpace ListDiff Log
    Log1p LogMatrixDeterminant LogSoftmax LogicalAnd LogicalNot LogicalOr LoopCond LowerBound Lu
    MatMul MatrixBandPart MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2
    MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixExponential MatrixInverse MatrixLogarithm
    MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixSolveLs MatrixSquareRoot
    MatrixTriangularSolve Max MaxPool MaxPool3D MaxPool3DGrad MaxPoolGrad MaxPoolGradV2 MaxPoolV2
    MaxPoolWithArgmax Maximum Mean Merge Min Minimum MirrorPad MirrorPadGrad Mod Mul MulNoNan
    Multinomial Ndtri Neg NextAfter NextIteration NoOp NonMaxSuppression NonMaxSuppressionV2
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual NthElement OneHot OnesLike
    Pack Pad PadV2 ParallelConcat ParallelDynamicStitch PartitionedCall Placeholder
    PlaceholderWithDefault Polygamma PopulationCount Pow PreventGradient Prod Qr
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 RFFT RFFT2D
    RFFT3D RGBToHSV RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse
    RaggedTensorToTensor RaggedTensorToVariant RandomShuffle RandomStandardNormal RandomUniform
    RandomUniformInt Range Rank Real RealDiv Reciprocal ReciprocalGrad ReduceJoin RegexFullMatch
    RegexReplace Relu Relu6 Relu6Grad ReluGrad Reshape ResizeArea ResizeBicubic ResizeBilinear
    ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad Reverse ReverseSequence
    ReverseV2 RightShift Rint Roll Round Rsqrt RsqrtGrad ScaleAndTranslate ScatterNd SegmentMax
    SegmentMean SegmentMin SegmentProd SegmentSum Select SelectV2 SelfAdjointEigV2 Selu SeluGrad
    Shape ShapeN Sigmoid SigmoidGrad Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyWithLogits
    Softplus SoftplusGrad Softsign SoftsignGrad SpaceToBatch SpaceToBatchND SpaceToDepth
    SparseFillEmptyRows SparseReorder SparseReshape SparseSegmentMean SparseSegmentSqrtN
    SparseSegmentSum SparseSlice SparseSoftmaxCrossEntropyWithLogits SparseTensorDenseMatMul
    SparseToDense Split SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessCase StatelessIf StatelessMultinomial StatelessRandomGetAlg
    StatelessRandomGetKeyCounter StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessWhile StaticRegexFullMatch
    StaticRegexReplace StopGradient StridedSlice StridedSliceGrad StringFormat StringJoin
    StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip
    StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Sub Substr Sum Svd
    Switch Tan Tanh TanhGrad TensorListConcatV2 TensorListElementShape TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListReserve TensorListResize TensorListScatterV2 TensorListSetItem TensorListSplit
    TensorListStack TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub
    TensorScatterUpdate TensorStridedSliceUpdate Tile TopK TopKV2 Transpose TridiagonalSolve
    TruncateDiv TruncateMod TruncatedNormal UnicodeDecodeWithOffsets UnicodeEncode UnicodeTranscode
    Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum UpperBound Where While Xdivy Xlog1py
    Xlogy ZerosLike Zeta
    """.split()
)
"""Operations that do nothing but compute: no file, no network, no code beside the graph."""

_HOLDS = frozenset(
    """
    Assign AssignAdd AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp
    DestroyResourceOp DisableCopyOnRead HashTable HashTableV2 InitializeTable InitializeTableV2
    IsVariableInitialized LookupTableExportV2 LookupTableFind LookupTableFindV2 LookupTableImportV2
    LookupTableInsertV2 LookupTableSize LookupTableSizeV2 MutableHashTableV2 ReadVariableOp
    ResourceGather ResourceGatherNd ResourceScatterUpdate RngReadAndSkip StatefulStandardNormalV2
    StatefulUniform StatefulUniformInt TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3
    TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3
    TensorArrayWriteV3 VarHandleOp VarIsInitializedOp Variable VariableShape VariableV2
    """.split()
)
"""Operations on what a SavedModel holds in memory: variables, tables, arrays."""

_SAVES = frozenset({"SaveV2", "MergeV2Checkpoints", "ShardedFilename"})
"""Operations of a SavedModel's own saver, which nothing that is served may reach."""

_RESTORES = "RestoreV2"
"""The operation that reads the variables; it may read only the file that the loader names."""


def check_saved_model(path: Path) -> None:
    """Raises unless a SavedModel's graph only computes. Nothing of it is loaded or run.

    Looked at are all nodes of all graphs and functions, whatever calls them. Only the saver that
    every SavedModel has may use files: its own checkpoint.

    Args:
        path: the folder that holds saved_model.pb.

    Raises:
        InputError: it has other operations.
        OSError, ValueError: there is no SavedModel, or it is damaged.
    """
    graphs = private.parse_saved_model(str(path)).meta_graphs
    beyond = sorted(set[str]().union(*(_MetaGraph(graph).beyond() for graph in graphs)))
    if beyond:
        raise InputError(
            f"{path} uses {first_few(beyond)}, which may do more than compute: use files or the "
            f"network, or run code; {IF_TRUSTED}"
        )


@dataclass
class _Reach:
    """Part of a graph: names of nodes, and of functions that they call, directly or not."""

    nodes: set[str]
    functions: set[str] = field(default_factory=set)


class _MetaGraph:
    """A graph of a SavedModel, as data."""

    def __init__(self, meta_graph: Any):
        self._meta = meta_graph
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        library = meta_graph.graph_def.library
        self._functions = {f.signature.name: f for f in library.function}
        if len(self._functions) != len(library.function):
            raise ValueError("two functions have one name")
        self._filename = node_of(meta_graph.saver_def.filename_tensor_name)

    def beyond(self) -> set[str]:
        """The operations that do more than compute, and more than a saver may do in its part."""
        saver = self._meta.saver_def
        restored = self._reach([saver.restore_op_name])
        saved = self._reach([saver.save_tensor_name])
        # All that neither saves nor restores counts as served, whether it is or not.
        served = self._reach(self._roots())
        served.nodes |= self._nodes.keys() - restored.nodes - saved.nodes
        served.functions |= self._functions.keys() - restored.functions - saved.functions
        served.functions |= self._revived()
        served.functions = self._called(self._references(served), served.functions)
        return {
            *self._strange(served, frozenset()),
            *self._strange(saved, _SAVES),
            *self._strange(restored, frozenset({_RESTORES})),
            *({_RESTORES} if self._restores_another(restored) else ()),
        }

    def _roots(self) -> list[str]:
        """What a loader or a caller may run by name: signatures, and operations that initialise."""
        found = [
            name
            for collection in self._meta.collection_def.values()
            for name in collection.node_list.value
        ]
        for signature in self._meta.signature_def.values():
            for info in (*signature.inputs.values(), *signature.outputs.values()):
                found += _tensors(info)
        return found

    def _revived(self) -> set[str]:
        """The functions that TensorFlow 2 makes callable again, runs at load or takes gradients
        from."""
        library = self._meta.graph_def.library
        objects = self._meta.object_graph_def
        found = set(objects.concrete_functions)
        for node in objects.nodes:
            found |= {*node.function.concrete_functions}
            found.add(node.bare_concrete_function.concrete_function_name)
        for gradient in library.gradient:
            found |= {gradient.function_name, gradient.gradient_func}
        found |= {gradient.gradient_func for gradient in library.registered_gradients}
        return found & self._functions.keys()

    def _reach(self, names: Iterable[str]) -> _Reach:
        """These nodes, all that they depend on, and the functions called there."""
        found = _Reach(closure(self._nodes, map(node_of, names)))
        found.functions = self._called(self._references(found), ())
        return found

    def _references(self, reach: _Reach) -> set[str]:
        names = (self._names_in(self._nodes[name]) for name in reach.nodes)
        return set().union(*names)

    def _called(self, first: Iterable[str], more: Iterable[str]) -> set[str]:
        """These functions and all that they call."""
        left, found = [*first, *more], set[str]()
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                for node in self._body(name):
                    left += self._names_in(node)
        return found

    def _names_in(self, node: Any) -> set[str]:
        """The functions that a node names, as its operation or in its attributes."""
        found = {node.op}
        for value in node.attr.values():
            found |= {value.func.name, *(func.name for func in value.list.func)}
        return found & self._functions.keys()

    def _strange(self, reach: _Reach, more: frozenset[str]) -> set[str]:
        """The operations in a part that are on no list."""
        nodes = [self._nodes[name] for name in reach.nodes]
        for name in reach.functions:
            nodes += self._body(name)
        found = {node.op for node in nodes} - COMPUTES - _HOLDS - more
        # A function by the name of an operation may hide it.
        calls = {op for op in found & self._functions.keys() if not private.op_def_registry.get(op)}
        return found - calls

    def _restores_another(self, restored: _Reach) -> bool:
        """Whether the graph reads another file than the one that the loader names."""
        nodes = [self._nodes[name] for name in restored.nodes]
        if self._reads(nodes, {self._filename, f"{self._filename}:0"} if self._filename else set()):
            return True
        inner = set[str]().union(
            *(self._names_in(n) for name in restored.functions for n in self._body(name))
        )
        for name in restored.functions:
            calls = [node for node in nodes if name in self._names_in(node)]
            arguments = self._functions[name].signature.input_arg if name not in inner else ()
            known = {
                argument.name
                for place, argument in enumerate(arguments)
                if all(
                    node_of("".join(c.input[place : place + 1])) == self._filename for c in calls
                )
            }
            if self._reads(self._body(name), known):
                return True
        return False

    def _reads(self, nodes: Iterable[Any], names: set[str]) -> bool:
        """Whether a node restores from a file that is not named by these tensors."""
        return any(n.op == _RESTORES and not set(n.input[:1]) & names for n in nodes)

    def _body(self, function: str) -> Any:
        return self._functions[function].node_def


def _tensors(info: Any) -> list[str]:
    """The names in a TensorInfo, also in one of several parts."""
    sparse, parts = info.coo_sparse, info.composite_tensor.components
    names = [
        info.name,
        sparse.values_tensor_name,
        sparse.indices_tensor_name,
        sparse.dense_shape_tensor_name,
    ]
    return [*filter(None, names), *(name for part in parts for name in _tensors(part))]


def closure(
    nodes: Mapping[str, Any], names: Iterable[str], follow: Callable[[str], bool] = lambda _: True
) -> set[str]:
    """The nodes of these names, and all that they depend on by the inputs that are followed."""
    left, found = list(names), set[str]()
    while left:
        name = left.pop()
        if name in nodes and name not in found:
            found.add(name)
            left += [node_of(tensor) for tensor in nodes[name].input if follow(tensor)]
    return found


def node_of(tensor: str) -> str:
    """The node that a tensor, or a control input, comes from."""
    return tensor.removeprefix("^").partition(":")[0]
