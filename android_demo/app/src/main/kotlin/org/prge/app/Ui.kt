package org.prge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Context
import android.graphics.Typeface
import android.graphics.drawable.GradientDrawable
import android.util.TypedValue
import android.view.View
import android.view.ViewGroup
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.Spinner
import android.widget.TextView

// The few kinds of views that the screens are made of. Sizes of text are in sp, so they grow with the owner's setting.

fun Context.dp(size: Int): Int = (size * resources.displayMetrics.density).toInt()

/** A screen: a column that scrolls, clear of the system's bars. */
fun Activity.screen(fill: LinearLayout.() -> Unit) {
    val column = LinearLayout(this).apply {
        orientation = LinearLayout.VERTICAL
        setPadding(dp(20), dp(16), dp(20), dp(32))
        fill()
    }
    setContentView(
        ScrollView(this).apply {
            isFillViewport = true
            fitsSystemWindows = true
            addView(column)
        },
    )
}

fun ViewGroup.text(content: CharSequence = "", size: Float = 16f, color: Int = R.color.ink): TextView =
    TextView(context).apply {
        text = content
        setTextSize(TypedValue.COMPLEX_UNIT_SP, size)
        setTextColor(context.getColor(color))
        setLineSpacing(0f, 1.15f)
        this@text.addView(this, LinearLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT))
    }

/** A heading, which TalkBack can jump to. */
fun ViewGroup.heading(content: CharSequence, size: Float = 20f): TextView = text(content, size).apply {
    typeface = Typeface.create("sans-serif-medium", Typeface.NORMAL)
    if (android.os.Build.VERSION.SDK_INT >= 28) isAccessibilityHeading = true
}

fun ViewGroup.faint(content: CharSequence = ""): TextView = text(content, 14f, R.color.faint)

/** A part of a screen that belongs together. */
fun ViewGroup.card(fill: LinearLayout.() -> Unit): LinearLayout = LinearLayout(context).apply {
    orientation = LinearLayout.VERTICAL
    setBackgroundResource(R.drawable.card)
    setPadding(context.dp(16), context.dp(14), context.dp(16), context.dp(16))
    fill()
    this@card.addView(this, context.below(16))
}

/** Views beside each other, or one below the other where large letters leave no room. */
fun ViewGroup.row(fill: LinearLayout.() -> Unit): LinearLayout = LinearLayout(context).apply {
    val large = resources.configuration.fontScale > 1.4f
    orientation = if (large) LinearLayout.VERTICAL else LinearLayout.HORIZONTAL
    isBaselineAligned = false
    // Between those that are shown; a margin would stay beside one that is gone.
    showDividers = LinearLayout.SHOW_DIVIDER_MIDDLE
    dividerDrawable = GradientDrawable().apply { setSize(context.dp(10), 0) }
    fill()
    for (i in 0 until childCount) {
        val one = getChildAt(i).layoutParams as LinearLayout.LayoutParams
        if (large) one.width = MATCH_PARENT else {
            one.width = 0
            one.weight = 1f
            getChildAt(i).run { setPadding(context.dp(6), paddingTop, context.dp(6), paddingBottom) }
        }
    }
    this@row.addView(this, context.below(0))
}

fun ViewGroup.button(label: Int, main: Boolean = false, pressed: () -> Unit): Button =
    Button(context, null, 0, if (main) R.style.Filled else R.style.Outlined).apply {
        setText(label)
        setOnClickListener { pressed() }
        this@button.addView(this, context.below(12))
    }

/** Something to choose from. A screen that is made anew, as by turning the phone, keeps what was chosen. */
fun ViewGroup.choice(described: Int, entries: List<String>, chosen: Int = 0): Spinner = Spinner(context).apply {
    id = described
    adapter = ArrayAdapter(context, android.R.layout.simple_spinner_item, entries).apply {
        setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item)
    }
    minimumHeight = context.dp(48)
    contentDescription = context.getString(described)
    if (chosen in entries.indices) setSelection(chosen)
    this@choice.addView(this, context.below(4))
}

fun Context.below(space: Int) = LinearLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT).apply { topMargin = dp(space) }

fun LinearLayout.gap(size: Int) = addView(View(context), LinearLayout.LayoutParams(MATCH_PARENT, context.dp(size)))

/** Tells a sentence. */
fun Activity.say(sentence: String) {
    if (isDestroyed || isFinishing) return
    AlertDialog.Builder(this).setMessage(sentence).setPositiveButton(android.R.string.ok, null).show()
}

/** Asks before something is lost. */
fun Activity.ask(question: String, yes: Int, then: () -> Unit) {
    AlertDialog.Builder(this).setMessage(question).setPositiveButton(yes) { _, _ -> then() }
        .setNegativeButton(android.R.string.cancel, null).show()
}

/** [App.later], with the sentence shown on this screen. */
fun <T> Activity.later(what: Int, work: () -> T, then: (T) -> Unit) =
    app.later(what, work, ::say) { if (!isDestroyed) then(it) }
