package org.prge.app

import android.app.Activity
import android.content.Intent
import android.os.Bundle

/** Takes a message that was shared into the app, and asks for its right answer: together they are an example. */
class ShareActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val text = intent.getStringExtra(Intent.EXTRA_TEXT)?.trim().orEmpty()
        val program = app.shelf.programs.firstOrNull { labelsOf(it).isNotEmpty() && askedOf(it).size == 1 }
        screen {
            heading(getString(R.string.share_title), 26f)
            when {
                text.isEmpty() -> text(getString(R.string.share_empty))
                program == null -> text(getString(R.string.share_no_program))
                else -> {
                    card { text(text) }
                    text(getString(R.string.share_question)).setPadding(0, dp(16), 0, 0)
                    for (label in labelsOf(program)) button(R.string.keep_as, main = true) {
                        app.messages.add(mapOf(askedOf(program).single() to text, labelColumnOf(program) to label))
                        finish()
                    }.apply { this.text = getString(R.string.keep_as, label) }
                    button(android.R.string.cancel) { finish() }
                }
            }
        }
    }
}
