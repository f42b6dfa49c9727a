package org.prge.app

import android.app.Activity
import android.os.Bundle
import android.widget.CheckBox

/** When training may go on. What is changed holds at once, also for a run that is active. */
class RulesActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        screen {
            heading(getString(R.string.rules), 26f)
            text(getString(R.string.rules_hint))
            card {
                addView(
                    CheckBox(context).apply {
                        text = getString(R.string.only_charging)
                        textSize = 16f
                        isChecked = app.rules.onlyCharging
                        setOnCheckedChangeListener { _, checked -> app.rules = app.rules.copy(onlyCharging = checked) }
                    },
                    context.below(0),
                )
            }
            card {
                text(getString(R.string.least_battery))
                pick(BATTERIES, app.rules.leastBattery, { getString(R.string.percent, it) }, R.string.least_battery) {
                    copy(leastBattery = it)
                }
            }
            card {
                text(getString(R.string.warmest))
                val names = resources.getStringArray(R.array.heats)
                pick(names.indices.toList(), app.rules.warmest, { names[it] }, R.string.warmest) { copy(warmest = it) }
            }
            card {
                text(getString(R.string.most_minutes))
                pick(MINUTES, app.rules.mostMinutes, ::budget, R.string.most_minutes) { copy(mostMinutes = it) }
            }
        }
    }

    private fun budget(minutes: Int) = if (minutes == 0) getString(R.string.no_limit) else duration(60.0 * minutes)

    private fun android.view.ViewGroup.pick(
        values: List<Int>, now: Int, write: (Int) -> String, described: Int, change: Rules.(Int) -> Rules,
    ) = choice(described, values.map(write), values.indexOf(now)).apply {
        onItemSelectedListener = object : android.widget.AdapterView.OnItemSelectedListener {
            override fun onItemSelected(list: android.widget.AdapterView<*>?, view: android.view.View?, at: Int, id: Long) {
                app.rules = app.rules.change(values[at])
            }

            override fun onNothingSelected(list: android.widget.AdapterView<*>?) = Unit
        }
    }

    companion object {
        val BATTERIES = listOf(10, 20, 30, 50, 80)
        val MINUTES = listOf(0, 10, 30, 60, 120, 240)
    }
}
