"""The algorithms: parameters of QGIS in, a command line of rscd, layers out."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDateTime,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from . import command
from .run import WINDOWS, Bar, Cancelled, Ended, run

PYTHON = "RSCD_PYTHON"
"""Name of the setting."""

AUTOMATIC = "chosen from the images"
MODELS = (AUTOMATIC, "buildings", "irmad", "cva", "pca-kmeans", "dcva", "features")
REGISTER = ("off", "shift", "local")
ALIGN = ("t1", "t2")
KINDS = ("appeared", "vanished", "kept")
FORMATS = ("gpkg", "geojson", "shp", "fgb")


class OwnStyle(QgsProcessingLayerPostProcessorInterface):
    """Styles a layer as its file says; Processing loads layers without."""

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Load the default style: that of the GeoPackage, or the .qml beside the file."""
        said, found = layer.loadDefaultStyle()
        if found:
            layer.triggerRepaint()
        else:
            feedback.pushInfo(f"{layer.name()} has no style of its own: {said}")


STYLES: list[OwnStyle] = []
"""One per layer to be loaded: QGIS deletes its half of each, and does not keep that of Python."""


class Base(QgsProcessingAlgorithm):
    """What the commands have in common."""

    ok: tuple[int, ...] = (0,)
    """Exit codes that are an answer."""
    bars = True

    def createInstance(self) -> Base:
        """A new one of the same kind, as QGIS asks for."""
        return type(self)()

    def tags(self) -> list[str]:
        """What the search box of the toolbox finds."""
        return ["rscd", "change", "detection", "buildings"]

    def execute(
        self,
        line: list[str],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> Ended | None:
        """Run a command line; None where the user cancelled.

        Raises:
            QgsProcessingException: with the one line in which rscd says what is wrong.
        """
        stages: list[str] = []

        def on_bar(bar: Bar) -> None:
            if bar.stage not in stages:
                stages.append(bar.stage)
                feedback.setProgressText(bar.stage)
            if bar.stage == stages[-1]:  # bars of earlier stages are drawn again
                feedback.setProgress(bar.percent)

        try:
            whole = [*command.program(ProcessingConfig.getSetting(PYTHON) or ""), *line]
            feedback.pushCommandInfo(command.shown(whole))
            ended = run(
                whole,
                command.environment(os.environ, bars=self.bars and not WINDOWS),
                on_bar=on_bar,
                on_line=feedback.pushInfo,
                cancelled=feedback.isCanceled,
            )
        except Cancelled:
            feedback.pushInfo("cancelled; rscd has been ended")
            return None
        except OSError as error:
            raise QgsProcessingException(str(error)) from error
        if ended.code not in self.ok:
            raise QgsProcessingException(ended.fault)
        return ended

    def raster(self, parameters: dict[str, Any], name: str, context: QgsProcessingContext) -> str:
        """The file of a raster layer.

        Raises:
            QgsProcessingException: there is no such layer, or it is not a file.
        """
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, name))
        kind = layer.dataProvider().name()
        if kind != "gdal":
            raise QgsProcessingException(
                f"expected a raster file for {name}, found {layer.name()} of the provider {kind}; "
                "export it as GeoTIFF first"
            )
        return str(layer.source())

    def number(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext
    ) -> float | None:
        """A number, or None where none was given."""
        if parameters.get(name) in (None, ""):
            return None
        return float(self.parameterAsDouble(parameters, name, context))

    def model(self, parameters: dict[str, Any], context: QgsProcessingContext) -> str | None:
        """The file of a model, else the name chosen, else None."""
        file = self.parameterAsFile(parameters, "MODEL_FILE", context)
        name = self.parameterAsEnumString(parameters, "MODEL", context)
        return file or (None if name == AUTOMATIC else name)

    def date(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext
    ) -> str | None:
        """A day such as 2019-07-14, or None where none was given."""
        day = self.parameterAsDateTime(parameters, name, context).date()
        return day.toString("yyyy-MM-dd") if day.isValid() else None

    def text(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext
    ) -> str | None:
        """A text, or None where none was given."""
        return self.parameterAsString(parameters, name, context).strip() or None

    def scene(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, command.Value]:
        """Options of rscd that say how the rasters are read and which part of them counts."""
        area = None
        if parameters.get("AOI") not in (None, ""):
            area, layer = self.parameterAsCompatibleSourceLayerPathAndLayerName(
                parameters, "AOI", context, FORMATS, "gpkg", feedback
            )
            if layer and "|" not in area:  # a file may have several
                area = f"{area}|layername={layer}"
        return {
            "aoi": area,
            "t1_date": self.date(parameters, "T1_DATE", context),
            "t2_date": self.date(parameters, "T2_DATE", context),
            "bands": self.text(parameters, "BANDS", context),
            "align": self.parameterAsEnumString(parameters, "ALIGN", context),
            "src_nodata": self.number(parameters, "SRC_NODATA", context),
        }

    def add_pair(self) -> None:
        """Parameters T1 and T2, two rasters."""
        self.addParameter(QgsProcessingParameterRasterLayer("T1", "Raster of the earlier date"))
        self.addParameter(QgsProcessingParameterRasterLayer("T2", "Raster of the later date"))

    def add_model(self) -> None:
        """Parameters MODEL and MODEL_FILE."""
        chosen = QgsProcessingParameterEnum(
            "MODEL", "Model", options=MODELS, defaultValue=AUTOMATIC, usesStaticStrings=True
        )
        self.addParameter(chosen)
        self.add_rare(
            QgsProcessingParameterFile(
                "MODEL_FILE", "Model from a file, in place of the one above", optional=True
            )
        )

    def add_number(self, name: str, text: str, maximum: float | None = None) -> None:
        """An optional number from 0."""
        limits = {} if maximum is None else {"maxValue": maximum}
        self.addParameter(_number(name, text, minValue=0, **limits))

    def add_scene(self) -> None:
        """What `scene` reads, under Advanced."""
        polygons = [QgsProcessing.SourceType.TypeVectorPolygon]
        day = QgsProcessingParameterDateTime.Type.Date
        for parameter in (
            QgsProcessingParameterFeatureSource(
                "AOI", "Area of interest: only what lies inside its polygons", polygons,
                optional=True,
            ),
            QgsProcessingParameterDateTime("T1_DATE", "Earlier date", day, optional=True),
            QgsProcessingParameterDateTime("T2_DATE", "Later date", day, optional=True),
            QgsProcessingParameterString(
                "BANDS", "Bands to use, such as 1,2,3 or red,nir", optional=True
            ),
            QgsProcessingParameterEnum(
                "ALIGN", "Pixel grid of the result: t1, the earlier, or t2, the later",
                options=ALIGN, defaultValue="t1", usesStaticStrings=True,
            ),
            _number("SRC_NODATA", "Value that means no data in both rasters"),
        ):  # fmt: skip
            self.add_rare(parameter)

    def add_rare(self, parameter: QgsProcessingParameterDefinition) -> None:
        """A parameter under Advanced."""
        parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
        self.addParameter(parameter)


class Predict(Base):
    """``rscd predict``."""

    def name(self) -> str:
        """Second part of ``rscd:predict``."""
        return "predict"

    def displayName(self) -> str:
        """Title in the toolbox."""
        return "Detect change"

    def shortHelpString(self) -> str:
        """Help beside the parameters."""
        return (
            "Finds what changed between two rasters of one place and writes it as polygons with a "
            "score, and as a mask if wanted.\n\n"
            "Model: where none is chosen, images of red, green and blue with pixels of 0.1 to 1 m "
            "are given to the network that ships with rscd, which finds buildings that came or "
            "went; all others to irmad (pca-kmeans where there is one band). irmad, cva and "
            "pca-kmeans find what differs in colour: good from 10 m on, nearly useless for "
            "buildings on images of half a metre. dcva and features need a frozen encoder "
            "(rscd[imagenet]).\n\n"
            "Empty numbers are the model's own. Least score and threshold are probabilities; the "
            "least area is in square metres and concerns polygons, not the mask.\n\n"
            "Registration: shift moves, local bends the later date onto the earlier one.\n\n"
            "The grids of the rasters may differ: the later date is resampled onto the earlier. "
            "Run Doctor first where a pair is not known.\n\n"
            "QGIS project: a .qgz with both rasters and what is written here, styled.\n\n"
            "Advanced: what lies around an area of interest is looked at, and left out of the "
            "result. Dates become columns and the time of the layer; where none is given, those "
            "that the rasters state. Pictures before and after, for map tips, need a change layer "
            "that is a GeoPackage. The column misreg is the fraction of a polygon that is no "
            "change any more when one date is moved by so many pixels (the estimated error where "
            "none are given); it takes several times as long. Further options are those of "
            "rscd predict --help-all, as typed in a terminal, such as --simplify 1."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        """Declare the parameters."""
        self.add_pair()
        self.add_model()
        self.add_number("MIN_AREA", "Least area of polygons in square metres")
        self.add_number("MIN_SCORE", "Least score of polygons, 0 to 1", 1)
        self.add_number("THRESHOLD", "Threshold of probability, 0 to 1", 1)
        self.addParameter(
            QgsProcessingParameterEnum(
                "REGISTER", "Registration", options=REGISTER, defaultValue="off",
                usesStaticStrings=True,
            )
        )  # fmt: skip
        self.add_scene()
        for parameter in (
            QgsProcessingParameterBoolean(
                "PICTURES", "Pictures of each polygon before and after", defaultValue=False
            ),
            QgsProcessingParameterBoolean(
                "MISREG", "Column misreg: what a small shift explains", defaultValue=False
            ),
            _number("MISREG_PX", "Pixels of that shift, for the column misreg", minValue=0.01),
            QgsProcessingParameterString("EXTRA", "Further options of rscd predict", optional=True),
        ):
            self.add_rare(parameter)
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                "OUTPUT", "Change", QgsProcessing.SourceType.TypeVectorPolygon
            )
        )
        for name, text in (("MASK", "Mask of change"), ("PROB", "Probability of change")):
            self.addParameter(
                QgsProcessingParameterRasterDestination(
                    name, text, optional=True, createByDefault=False
                )
            )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                "PROJECT", "QGIS project", "QGIS projects (*.qgz)", optional=True,
                createByDefault=False,
            )
        )  # fmt: skip

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Run ``rscd predict``."""
        layers = {
            name: self.parameterAsOutputLayer(parameters, name, context) or None
            for name in ("OUTPUT", "MASK", "PROB")
        }
        project = self.parameterAsFileOutput(parameters, "PROJECT", context) or None
        misreg = self.parameterAsBool(parameters, "MISREG", context)
        pixels = self.number(parameters, "MISREG_PX", context)
        try:
            line = command.predict(
                self.raster(parameters, "T1", context),
                self.raster(parameters, "T2", context),
                [path for path in (layers["OUTPUT"], layers["MASK"]) if path],
                prob=layers["PROB"],
                project=project,
                pictures=self.parameterAsBool(parameters, "PICTURES", context),
                misreg=misreg if pixels is None else pixels,
                model=self.model(parameters, context),
                threshold=self.number(parameters, "THRESHOLD", context),
                min_area=self.number(parameters, "MIN_AREA", context),
                min_score=self.number(parameters, "MIN_SCORE", context),
                register=self.parameterAsEnumString(parameters, "REGISTER", context),
                extra=self.text(parameters, "EXTRA", context) or "",
                **self.scene(parameters, context, feedback),
            )
        except ValueError as error:
            raise QgsProcessingException(str(error)) from error
        ended = self.execute(line, context, feedback)
        if ended is None:
            return {}
        if not Path(layers["OUTPUT"] or "").is_file():
            feedback.pushInfo(ended.out)
            raise QgsProcessingException(
                f"expected {layers['OUTPUT']}, found that rscd wrote no file; leave out what "
                "only prints, such as --dry-run, from the further options"
            )
        return _written(layers, context) | ({"PROJECT": project} if project else {})


class Events(Base):
    """``rscd events`` on footprints."""

    def name(self) -> str:
        """Second part of ``rscd:events``."""
        return "events"

    def displayName(self) -> str:
        """Title in the toolbox."""
        return "Change events from footprints"

    def shortHelpString(self) -> str:
        """Help beside the parameters."""
        return (
            "Compares two layers of footprints and writes the objects that appeared, vanished or "
            "were kept.\n\n"
            "An object appeared or vanished where the sum of its IoU (intersection over union) "
            "with the objects of the other date is at most the number given, 0 where none is.\n\n"
            "Layers that are no file, have a filter or a selection that is to be used are first "
            "written to a temporary GeoPackage."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        """Declare the parameters."""
        polygons = [QgsProcessing.SourceType.TypeVectorPolygon]
        for name, text in (("T1", "earlier"), ("T2", "later")):
            self.addParameter(
                QgsProcessingParameterFeatureSource(
                    name, f"Footprints of the {text} date", polygons
                )
            )
        self.addParameter(
            QgsProcessingParameterEnum(
                "KINDS", "What to write", options=KINDS, allowMultiple=True,
                defaultValue=list(KINDS), usesStaticStrings=True,
            )
        )  # fmt: skip
        self.addParameter(
            QgsProcessingParameterField(
                "CLASS", "Field that becomes the column class", None, "T1", optional=True
            )
        )
        self.add_number("DELTA", "IoU sum up to which an object appeared or vanished", 1)
        self.add_number("MIN_AREA", "Least area of polygons in square metres")
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                "OUTPUT", "Change events", QgsProcessing.SourceType.TypeVectorPolygon
            )
        )

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Run ``rscd events``."""
        output = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        (t1, layer_t1), (t2, layer_t2) = (
            self.parameterAsCompatibleSourceLayerPathAndLayerName(
                parameters, name, context, FORMATS, "gpkg", feedback
            )
            for name in ("T1", "T2")
        )
        line = command.events(
            t1,
            t2,
            output,
            layer_t1=layer_t1 or None,
            layer_t2=layer_t2 or None,
            kinds=self.parameterAsEnumStrings(parameters, "KINDS", context),
            class_field=self.parameterAsString(parameters, "CLASS", context) or None,
            delta=self.number(parameters, "DELTA", context),
            min_area=self.number(parameters, "MIN_AREA", context),
        )
        if self.execute(line, context, feedback) is None:
            return {}
        return _written({"OUTPUT": output}, context)


class Doctor(Base):
    """``rscd doctor``: its findings are an answer, not an error."""

    ok = (0, 1, 3)
    bars = False

    def name(self) -> str:
        """Second part of ``rscd:doctor``."""
        return "doctor"

    def displayName(self) -> str:
        """Title in the toolbox."""
        return "Doctor"

    def shortHelpString(self) -> str:
        """Help beside the parameters."""
        return (
            "Looks at two rasters as Detect change would: what they are, what differs between the "
            "dates besides change, what would be done, what is wrong, and which options help.\n\n"
            "The report appears in the log and as a page in the results viewer. VERDICT is 0 where "
            "nothing matters, 1 where change cannot be detected, 3 where a result should not be "
            "trusted. No raster and no layer is written.\n\n"
            "Options that would help are parameters of Detect change under these names: "
            "--register is Registration, --align, --src-nodata, --aoi, --bands and the dates "
            "are among the advanced ones of both."
        )

    def initAlgorithm(self, config: dict[str, Any] | None = None) -> None:
        """Declare the parameters."""
        self.add_pair()
        self.add_model()
        self.add_scene()
        self.addParameter(
            QgsProcessingParameterFileDestination(
                "REPORT", "Report", "HTML files (*.html)", optional=True
            )
        )
        self.addOutput(QgsProcessingOutputNumber("VERDICT", "Verdict: 0, 1 or 3"))

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Run ``rscd doctor``."""
        report = self.parameterAsFileOutput(parameters, "REPORT", context)
        line = command.doctor(
            self.raster(parameters, "T1", context),
            self.raster(parameters, "T2", context),
            model=self.model(parameters, context),
            **self.scene(parameters, context, feedback),
        )
        ended = self.execute(line, context, feedback)
        if ended is None:
            return {}
        if not ended.out.strip():  # an error, not a finding
            raise QgsProcessingException(ended.fault)
        for row in ended.out.splitlines():
            feedback.pushConsoleInfo(row)
        if report:
            Path(report).write_text(
                "<!doctype html><meta charset=utf-8><title>rscd doctor</title>"
                f"<pre>{html.escape(ended.out)}</pre>\n",
                encoding="utf-8",
            )
        return {"VERDICT": ended.code, **({"REPORT": report} if report else {})}


def _number(name: str, text: str, **limits: float) -> QgsProcessingParameterNumber:
    """A number that may be left empty."""
    kind = QgsProcessingParameterNumber.Type.Double
    return QgsProcessingParameterNumber(name, text, kind, None, True, **limits)


def _written(outputs: dict[str, str | None], context: QgsProcessingContext) -> dict[str, Any]:
    """The outputs that were asked for, styled where QGIS will load them."""
    there = {name: path for name, path in outputs.items() if path}
    for path in there.values():
        if context.willLoadLayerOnCompletion(path):
            STYLES.append(OwnStyle())
            context.layerToLoadOnCompletionDetails(path).setPostProcessor(STYLES[-1])
    return there
