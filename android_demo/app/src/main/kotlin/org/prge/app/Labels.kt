package org.prge.app

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

// What a program on the shelf says about itself, without the runtime. The manifest was checked when it came.

private fun manifestOf(program: File): JsonObject =
    Json.parseToJsonElement(File(program, Shelf.MANIFEST).readText()).jsonObject

/** The names of the classes that it tells apart; empty for a program that writes text. */
fun labelsOf(program: File): List<String> = manifestOf(program).getValue("labels").jsonArray
    .map { it.jsonObject.getValue("name").jsonPrimitive.content }

/** The column of an example that has its label. */
fun labelColumnOf(program: File): String = manifestOf(program).getValue("label_column").jsonPrimitive.content
