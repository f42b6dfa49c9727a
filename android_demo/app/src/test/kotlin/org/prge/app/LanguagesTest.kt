package org.prge.app

import java.io.File
import javax.xml.parsers.DocumentBuilderFactory
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.w3c.dom.Element
import org.w3c.dom.NodeList

/** The app's words in all languages: a folder `values-LANGUAGE` is one. */
class LanguagesTest {
    private val resources = File("src/main/res")
    private val languages = resources.listFiles { file -> File(file, WORDS).isFile }!!.map { it.name } - "values"

    /** Name -> its text, or the texts of a plural. The items of a list have numbers behind its name. */
    private fun words(folder: String): Map<String, List<String>> {
        val document = DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(File(resources, "$folder/$WORDS"))
        val words = HashMap<String, List<String>>()
        for (word in document.documentElement.childNodes.elements().filter { it.getAttribute("translatable") != "false" }) {
            val (name, items) = word.getAttribute("name") to word.childNodes.elements().map { it.textContent }
            if (word.tagName == "string-array") for ((i, item) in items.withIndex()) words["$name $i"] = listOf(item)
            else words[name] = items.ifEmpty { listOf(word.textContent) }
        }
        return words
    }

    private fun NodeList.elements() = (0 until length).map(::item).filterIsInstance<Element>()

    private fun arguments(text: String) = Regex("%(?:[0-9]+[$][.0-9]*[a-z]|.)").findAll(text).map { it.value }.sorted().toList()

    @Test
    fun `each language has all words, with the same arguments`() {
        val own = words("values")
        assertTrue("values-de" in languages)
        for (language in languages) {
            val found = words(language)
            assertEquals(own.keys.sorted(), found.keys.sorted(), language)
            for ((name, texts) in own)
                assertEquals(texts.map(::arguments).toSet(), found.getValue(name).map(::arguments).toSet(), "$language: $name")
        }
    }

    @Test
    fun `each word is used`() {
        val code = listOf("kotlin", "AndroidManifest.xml").flatMap { File("src/main/$it").walk().filter(File::isFile) }
            .joinToString("") { it.readText() }
        for (name in words("values").keys.map { it.substringBefore(' ') }) assertTrue(Regex("(R[.]\\w+[.]|@string/)$name\\b").containsMatchIn(code), name)
    }

    private companion object {
        const val WORDS = "strings.xml"
    }
}
