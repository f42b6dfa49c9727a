package org.prge.app

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Path
import android.view.View

/** Draws curves, the lowest and highest value beside them. It reads to TalkBack as its [contentDescription]. */
class CurveView(context: Context) : View(context) {
    private var curves: List<Curve> = emptyList()
    private var scale = Scale(1.0, 0.0, 1.0)
    private var write: (Double) -> String = { "%.2f".format(it) }

    private val line = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        style = Paint.Style.STROKE
        strokeWidth = context.dp(2).toFloat()
        strokeJoin = Paint.Join.ROUND
        strokeCap = Paint.Cap.ROUND
    }
    private val grid = Paint().apply {
        color = context.getColor(R.color.line)
        strokeWidth = context.dp(1).toFloat()
    }
    private val letters = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = context.getColor(R.color.faint)
        // Grows with the owner's setting, as sp does, but not out of the picture.
        textSize = context.dp(12) * minOf(context.resources.configuration.fontScale, 1.5f)
    }

    /** @param write how a value is written beside the curves. */
    fun show(curves: List<Curve>, scale: Scale, write: (Double) -> String) {
        this.curves = curves
        this.scale = scale
        this.write = write
        invalidate()
    }

    override fun onMeasure(width: Int, height: Int) =
        setMeasuredDimension(getDefaultSize(suggestedMinimumWidth, width), context.dp(140))

    override fun onDraw(canvas: Canvas) {
        val names = listOf(scale.high, scale.low).map(write)
        val room = names.maxOf { letters.measureText(it) } + context.dp(8)
        val top = letters.textSize / 2 + context.dp(2)
        val bottom = height - top
        val right = width - context.dp(4).toFloat()
        for ((i, name) in names.withIndex()) {
            val y = if (i == 0) top else bottom
            canvas.drawLine(room, y, right, y, grid)
            canvas.drawText(name, 0f, y + letters.textSize / 3, letters)
        }
        for ((i, curve) in curves.withIndex()) {
            line.color = context.getColor(COLORS[i % COLORS.size])
            val places = curve.points.map(scale::place).map { (x, y) -> room + x * (right - room) to top + y * (bottom - top) }
            canvas.drawPath(path(places), line)
            // So many points are evaluations, each of which tells something.
            if (places.size in 1..FEW) for ((x, y) in places) canvas.drawCircle(x, y, context.dp(3).toFloat(), dot())
        }
    }

    private fun path(places: List<Pair<Float, Float>>) = Path().apply {
        for ((i, place) in places.withIndex()) if (i == 0) moveTo(place.first, place.second) else lineTo(place.first, place.second)
    }

    private fun dot() = Paint(line).apply { style = Paint.Style.FILL }

    companion object {
        /** Of the first curve, the second one, and on. */
        val COLORS = intArrayOf(R.color.accent, R.color.second, R.color.alarm, R.color.faint)
        private const val FEW = 20
    }
}
