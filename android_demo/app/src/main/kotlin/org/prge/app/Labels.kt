package org.prge.app

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.prge.examples.Form

// What a program on the shelf says about itself, without the runtime. The manifest was checked when it came.

private fun textOf(program: File): String = File(program, Shelf.MANIFEST).readText()

private fun manifestOf(program: File): JsonObject = Json.parseToJsonElement(textOf(program)).jsonObject

/** The names of the classes that it tells apart; empty for a program that writes text. */
fun labelsOf(program: File): List<String> = manifestOf(program).getValue("labels").jsonArray
    .map { it.jsonObject.getValue("name").jsonPrimitive.content }

/** The column of an example that has its label. */
fun labelColumnOf(program: File): String = manifestOf(program).getValue("label_column").jsonPrimitive.content

/** The columns of an example that its owner writes. */
fun askedOf(program: File): List<String> = Form(textOf(program)).asked
